"""Unlabelled texts of ``pretrain``: from files of every layout that `data` reads, plain text files,
or the training rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.dispatch import split_part
from prooftune.data.readers.encoding import check_readable, iter_lines
from prooftune.data.readers.shards import expand_path
from prooftune.data.readers.table import Table
from prooftune.data.sources import read_tables
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Data, Pretraining
from prooftune.types import HISTORY, Example
from prooftune.utils import package_files
from prooftune.utils.disk_list import DiskBackedList

PLAIN_TEXT = (".txt", ".text", ".md")
"""Suffixes of files that are texts and no tables, where no format is given."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True, slots=True)
class UnlabelledText:
    """A text, and where it is from, for messages: ``file.csv:17``."""

    text: str
    source: str


def read_unlabelled_texts(
    settings: Pretraining, data: Data, base: Path
) -> DiskBackedList[UnlabelledText]:
    """The texts of the files of ``pretrain``, without empty ones.

    Args:
        settings: names the files.
        data: its text columns are the default.
        base: folder of relative paths.

    Raises:
        UsageError: a file is missing, empty or has no text column, or there is no text at all.
        Failure: the hub or the package index cannot be reached.
    """
    source = settings.source()
    plain = [path for path in source.paths if settings.format is None and _is_plain(path)]
    tables = [path for path in source.paths if path not in plain]
    parts: list[Iterable[UnlabelledText]] = [_plain_texts(path, settings, base) for path in plain]
    if tables:
        table = read_tables(source.model_copy(update={"path": tables}), base)
        parts.append(_texts_of_table(table, _text_columns(table, settings, data)))
    texts = DiskBackedList(t for t in itertools.chain.from_iterable(parts) if t.text.strip())
    if not texts:
        raise UsageError(f"{', '.join(source.paths)} has no text")
    return texts


def training_texts(examples: Sequence[Example]) -> DiskBackedList[UnlabelledText]:
    """The texts of training rows: all their fields, without the label or the answer."""
    return DiskBackedList(UnlabelledText(text_of(e), e.source) for e in examples)


def text_of(example: Example) -> str:
    """All fields of a row as one text."""
    # Earlier turns of a conversation are JSON.
    fields = (text for name, text in example.inputs.items() if name != HISTORY)
    return "\n".join(text for text in fields if text.strip())


def _is_plain(path: str) -> bool:
    if package_files.is_reference(path) or path.startswith("hub:"):
        return False
    name = Path(split_part(Path(path))[0].name)
    if name.suffix.lower() in COMPRESSED:  # `corpus.txt.gz`
        name = name.with_suffix("")
    return name.suffix.lower() in PLAIN_TEXT


def _plain_texts(path: str, settings: Pretraining, base: Path) -> Iterator[UnlabelledText]:
    for name in expand_path(base / Path(path).expanduser()):
        file = uncompressed(name)
        check_readable(file)
        lines = partial(iter_lines, file, settings.encoding, newline="\n")
        # A file without blank lines would be one text of its whole length.
        read = _paragraphs if _has_paragraphs(lines()) else _single_lines
        yield from read(lines(), file.name)


def _has_paragraphs(lines: Iterator[str]) -> bool:
    """Whether blank lines are between lines of text; at the ends of a file they mean nothing."""
    runs = [blank for blank, _ in itertools.groupby(lines, key=lambda line: not line.strip())]
    return True in runs[1:-1]


def _single_lines(lines: Iterator[str], name: str) -> Iterator[UnlabelledText]:
    for number, line in enumerate(lines, start=1):
        yield UnlabelledText(line.strip(), f"{name}:{number}")


def _paragraphs(lines: Iterator[str], name: str) -> Iterator[UnlabelledText]:
    numbered = enumerate(lines, start=1)
    for blank, group in itertools.groupby(numbered, key=lambda pair: not pair[1].strip()):
        if not blank:
            part = list(group)
            text = "".join(line for _, line in part).strip()
            yield UnlabelledText(text, f"{name}:{part[0][0]}")


def _text_columns(table: Table, settings: Pretraining, data: Data) -> list[str]:
    named = [settings.text] if isinstance(settings.text, str) else settings.text
    if named is not None:
        for column in named:
            if column not in table.columns:
                raise UsageError(
                    f"{table.name} has no column '{column}' (text){nearest(column, table.columns)}"
                    f"; {_columns(table)}"
                )
        return named
    shared = data.source("train").text
    if isinstance(shared, dict):
        shared = [*shared.values()]
    fields = [shared] if isinstance(shared, str) else shared or ["text"]
    for columns in (fields, ["text"]):
        if {*columns} <= {*table.columns}:
            return columns
    if len(table.columns) == 1:
        return table.columns
    raise UsageError(
        f"{table.name} has no column {' or '.join(map(repr, dict.fromkeys([*fields, 'text'])))}; "
        f"name its text column in 'text'. {_columns(table)}"
    )


def _columns(table: Table) -> str:
    shown = ", ".join(repr(column[:60]) for column in table.columns[:12])
    return f"Found {len(table.columns)}: {shown}"


def _texts_of_table(table: Table, columns: Sequence[str]) -> Iterator[UnlabelledText]:
    numbers = [table.columns.index(column) for column in columns]
    for i, row in enumerate(table.rows):
        # As rows of the study join their fields.
        cells = (row[number] for number in numbers)
        yield UnlabelledText(
            "\n".join(cell for cell in cells if cell and cell.strip()), table.location(i)
        )
