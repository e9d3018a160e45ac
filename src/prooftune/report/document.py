"""Short documents of tables: as a self-contained HTML page, as Markdown, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prooftune.report.build import page_style, template_environment
from prooftune.report.markdown import escape_markdown, markdown_table
from prooftune.version import __version__

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class DocumentTable:
    """A table of text cells.

    Attributes:
        title: heading above it.
        headings: one per column.
        rows: cells as text; the first column names the row.
        caption: a sentence below it; empty for none.
        printed: whether the terminal shows it, too.
        figure: an SVG diagram beside it on the page; empty for none.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    printed: bool = True
    figure: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A short report.

    Attributes:
        title: what was measured, on what.
        headline: the result in a few words.
        verdict: the result in one or a few sentences.
        tables: in order.
        remarks: methods and notes, one sentence each.
    """

    title: str
    headline: str
    verdict: str
    tables: Sequence[DocumentTable]
    remarks: Sequence[str] = ()


def render_html(document: Document) -> str:
    """One HTML file that needs no network; all text is escaped."""
    template = template_environment().get_template("document.html.j2")
    return template.render(style=page_style(), document=document, version=__version__) + "\n"


def render_markdown(document: Document) -> str:
    """The document as Markdown."""
    parts = [f"# {escape_markdown(document.title)}", escape_markdown(document.verdict)]
    for table in document.tables:
        cells = [[escape_markdown(cell) for cell in row] for row in table.rows]
        parts += [
            f"## {escape_markdown(table.title)}",
            markdown_table([escape_markdown(heading) for heading in table.headings], cells),
            *([escape_markdown(table.caption)] if table.caption else []),
        ]
    if document.remarks:
        lines = "\n".join(f"- {escape_markdown(line)}" for line in document.remarks)
        parts += ["## Remarks", lines]
    return "\n\n".join(parts) + "\n"


def _terminal_table(content: DocumentTable, *, narrow: bool = False) -> Table:
    """The table for a terminal; `narrow` puts what is in brackets on a line of its own, since rich
    would break it anywhere."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    first, *headings = content.headings
    table.add_column(first, overflow="fold")
    for heading in headings:
        text = heading.replace(" ", "\n") if narrow else heading
        table.add_column(text, justify="right", overflow="fold", no_wrap=narrow)
    for name, *cells in content.rows:
        # rich would read "[bold]" in a cell as its markup.
        texts = [escape(cell.replace(" (", "\n(") if narrow else cell) for cell in cells]
        table.add_row(escape(name), *texts)
    return table


def print_document(document: Document, remarks: Sequence[str] | None = None) -> None:
    """Print tables, remarks and the verdict.

    Args:
        document: the document.
        remarks: replaces the document's remarks. Default: all of them.
    """
    from rich.console import Console

    from prooftune.report.terminal import natural_width, print_paragraph

    for content in document.tables:
        # Large tables are for the page only.
        if not content.printed:
            continue
        console = Console()
        table = _terminal_table(content)
        if natural_width(console, table) > console.width:
            table = _terminal_table(content, narrow=True)
        console.print(table)
    for sentence in document.remarks if remarks is None else remarks:
        print_paragraph(sentence)
    print_paragraph(document.verdict)
