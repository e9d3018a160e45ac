"""Detection of a CSV file's separator, title lines and header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from prooftune.data.init.delimiters import (
    DELIMITERS,
    SAMPLE_ROWS,
    NoLabels,
    count_title_lines,
    delimiter_fit,
    has_header,
    row_evenness,
    sample_rows,
)
from prooftune.data.init.inferred_options import InferredOptions
from prooftune.data.readers.chat_text import is_rendered
from prooftune.data.readers.dispatch import default_delimiter, delimiter_of
from prooftune.data.readers.header_rows import KNOWN_NAMES, extra_header_rows, joined_header
from prooftune.data.readers.table import strip_invisible, unique_names
from prooftune.errors import UsageError
from prooftune.recipe import Source


def detect_csv_layout(path: Path, text: str, inferred: InferredOptions) -> None:
    """Separator, lines above the table and header of a CSV file, as options of the recipe.

    Args:
        path: the file, whose suffix has a usual separator.
        text: its first lines.
        inferred: takes the options.

    Raises:
        UsageError: there are no rows, or the layout is not that of CSV.
    """
    named = delimiter_of(
        path, Source(path=str(path), encoding=inferred.options.get("encoding", "utf-8"))
    )
    usual = default_delimiter(path)
    # Excel's `sep=;` line is no row.
    body = text.split("\n", 1)[-1] if named != usual else text
    rows = {d: sample_rows(body, d) for d in dict.fromkeys([named, usual, *separators(body)])}
    # A tab is no part of prose. Of other equals, `max` takes the first: the usual separator of the
    # file's suffix.
    best = (
        named if named != usual else max(rows, key=lambda d: (*delimiter_fit(rows[d]), d == "\t"))
    )
    if not rows[best]:
        raise UsageError(f"{path.name} contains no rows")
    if len(rows[best]) == 1:
        raise UsageError(
            f"{path.name} holds a single row, {', '.join(map(repr, rows[best][0][:8]))}: a header "
            "and no rows?"
        )
    # The best of all separators makes one column: this is no table, unless its cells hold all.
    if not row_evenness(rows[best]) and not _are_chats(rows[usual]):
        raise NoLabels(
            f"{path.name}: no separator among tab, comma, semicolon and | gives more than one "
            "column in every row. For lines of the form text<separator>label use --format text"
        )
    if named != usual:
        inferred.notes.append(f"Columns are separated by {best!r}, as the first line says.")
    elif best != usual or "format" in inferred.options:
        inferred.add("delimiter", best, f"Columns are separated by {best!r}.")
    # Before the header is looked for: cells in quotes of another kind look like data.
    _refuse_foreign_quotes(path.name, text, rows[best], best)
    # As a table separated by |, the line of dashes would be a row.
    if any(all(re.fullmatch(r"\s*(:?-{3,}:?)?\s*", c) for c in row) for row in rows[best][1:2]):
        raise UsageError(
            f"{path.name} holds a table in Markdown, with a line of dashes below its header. Write "
            "it as CSV, or with tabs between the columns"
        )
    # "Export of 3 May" and the like, which spreadsheet programs write above a table.
    titles = count_title_lines(rows[best])
    table = rows[best][titles:]
    below_sep = named != usual
    if has_row_names(table):
        lines = _lines_of_rows(body, best, titles + 1) + below_sep
        inferred.add("skip_lines", lines, "Each row begins with its name, which the header lacks.")
        _name_columns(inferred, ["row_name", *table[0]])
        return
    more = extra_header_rows(table) if has_header(table[:1] + table[3:]) else 0
    names = joined_header(table[: more + 1])
    # With the names of the last of several rows, the ones above it are like titles.
    above = titles + (more if more and names == [*map(strip_invisible, table[more])] else 0)
    if more:
        inferred.notes.append(
            f"The header takes {more + 1} rows; the columns are named {', '.join(names[:6])}"
            f"{' …' if len(names) > 6 else ''}."
        )
    if more and above == titles:
        inferred.options["skip_lines"] = _lines_of_rows(body, best, titles + more + 1) + below_sep
        _name_columns(inferred, names)
        return
    if above:
        # Rows and lines differ where a title is followed by blank lines.
        lines = _lines_of_rows(body, best, above) + below_sep
        inferred.add(
            "skip_lines",
            lines,
            f"The first {lines} line{'s are' if lines > 1 else ' is'} no part of the table: "
            f"{' '.join(rows[best][0])[:60]!r}.",
        )
        if below_sep:
            inferred.options["delimiter"] = best
    if not has_header(rows[best][above:SAMPLE_ROWS]):
        inferred.named = False
        inferred.add(
            "header",
            False,
            "The first row looks like data, so there is no header; data.columns names the columns.",
        )
    elif not {name.strip().lower() for name in rows[best][above]} & {*KNOWN_NAMES}:
        sentence = next((name for name in rows[best][above] if len(name.split()) > 3), "")
        if sentence:
            inferred.notes.append(
                f"The first row is read as the header ('{sentence[:60]}'). If it is data, add a "
                "line with the names of the columns above it."
            )


def separators(text: str) -> str:
    """The separators that a table may have; a space if all names are in quotes, as in R's files."""
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    return DELIMITERS + " " * bool(re.fullmatch(r'"[^"]*"(?: "[^"]*")+', first))


def has_row_names(rows: Sequence[Sequence[str]]) -> bool:
    """Whether every row has one cell more than the header, and begins with a different name: R's
    ``write.table`` writes tables so."""
    if len(rows) < 3 or len(rows[0]) < 1:
        return False
    width = len(rows[0]) + 1
    names = {row[0] for row in rows[1:]}
    return (
        all(len(row) == width for row in rows[1:])
        and len(names) == len(rows) - 1
        # 1, 2, 3 where the table has no row names.
        and rows[1][0].strip('"') == "1"
        and has_header([rows[0], *(row[1:] for row in rows[1:])])
    )


def _name_columns(inferred: InferredOptions, names: Sequence[str]) -> None:
    """Name the columns in the recipe, since the file has no single row that does."""
    unique, _ = unique_names([name or f"column_{i}" for i, name in enumerate(names, start=1)])
    inferred.options["header"] = False
    inferred.options["columns"] = unique


def _are_chats(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a single column holds conversations as a chat template writes them."""
    return len(rows) > 1 and all(len(row) == 1 and is_rendered(row[0]) for row in rows[1:20])


def _lines_of_rows(text: str, delimiter: str, rows: int) -> int:
    """How many lines of a file the first rows take, with the blank lines between them and the
    line breaks in quoted cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        rows -= any(map(str.strip, row))
        if not rows:
            break
    return reader.line_num


def _refuse_foreign_quotes(
    name: str, text: str, rows: Sequence[Sequence[str]], delimiter: str
) -> None:
    """Refuse fields in single quotes and quotes after a backslash, which would stay in the labels.

    Raises:
        UsageError: the file has them.
    """
    # Uneven rows are those that broken quotes made; whole ones show the habit.
    columns = zip(*(row for row in rows[1:] if len(row) == len(rows[-1])), strict=True)
    if any(
        all(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in map(str.strip, column))
        for column in columns
    ):
        raise UsageError(
            f"{name}: fields are in single quotes, which CSV does not have. Write the file with "
            'double quotes (")'
        )
    if '\\"' in text and len({*map(len, rows)}) > 1:
        escaped = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, escapechar="\\", doublequote=False
        )
        if len({len(row) for row in islice(escaped, len(rows)) if row}) == 1:
            raise UsageError(
                f'{name}: quotes inside of fields come after a backslash (\\"), and CSV doubles '
                'them (""). Write the file with doubled quotes'
            )
