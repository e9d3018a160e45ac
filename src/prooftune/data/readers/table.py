"""The table of strings that all readers return."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TextIO

from prooftune.errors import UsageError
from prooftune.utils.disk_list import DiskBackedList

MAX_FIELD_CHARS = 1_000_000
"""A longer field is an unclosed quote, or a file in another format."""

# JSON may hold half an emoji, as `\ud83d`, which Python reads and UTF-8 cannot write.
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = " \t\r\n\v\f\xa0\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Spaces and characters without width, which some programs write around names."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Attributes:
        name: name of the file, for messages.
        columns: column names, or ``0``, ``1`` … if the file has none.
        rows: one list of cells per row, as long as `columns`; None for a missing value. Formats
            that are read row by row store them on disk (`DiskBackedList`).
        lines: line number of every row, counted from 1 (JSON arrays and Parquet: row number); for a
            folder of files, the file names.
        located: whether `lines` include the file name, as for several files read as one table.
        notes: what was left out when the file was read, one sentence each.
        repeated: names that the file has for several columns; in `columns` they are numbered.
    """

    name: str
    columns: list[str]
    rows: Sequence[list[str | None]]
    lines: Sequence[int | str]
    located: bool = False
    notes: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    def location(self, row: int) -> str:
        """Return the location of a row, as ``file:line``, for messages and ids."""
        return str(self.lines[row]) if self.located else f"{self.name}:{self.lines[row]}"


def unique_names(names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The names, with a number after the second and later occurrences of each (``note_2``); and the
    names that occur more than once."""
    counts = Counter(names)
    unique: dict[str, None] = {}  # ordered set: a table may have thousands of columns
    for name in names:
        number, candidate = 2, name
        # `note_2` may itself be a name of the header.
        while candidate in unique or (candidate != name and candidate in counts):
            candidate, number = f"{name}_{number}", number + 1
        unique[candidate] = None
    return list(unique), tuple(sorted(name for name, count in counts.items() if count > 1))


def header_notes(name: str, repeated: Sequence[str], header_rows: int) -> tuple[str, ...]:
    """What was done about names that the header has twice, and rows that repeat it."""
    notes = []
    if repeated:
        notes.append(
            f"{name}: the header names {', '.join(map(repr, repeated))} more than once; later "
            f"columns of this name are numbered, as in '{repeated[0]}_2'."
        )
    if header_rows:
        notes.append(
            f"{name}: {header_rows:,} row{'s' if header_rows > 1 else ''} "
            "left out that repeat the header."
        )
    return tuple(notes)


def strip_invisible(text: str) -> str:
    """A name or label without space and characters of no width around it."""
    return text.strip(_INVISIBLE)


def footer_note(name: str, footer: Sequence[str]) -> tuple[str, ...]:
    """What was done about lines below the table."""
    lines = [line.strip()[:60] for line in footer if line.strip(" \x1a")]
    if not lines:
        return ()
    shown = ", ".join(map(repr, lines[:3]))
    return (
        f"{name}: {len(lines)} line{'s' if len(lines) > 1 else ''} below the table left out "
        f"({shown}).",
    )


def without_blank_rows(table: Table) -> Table:
    """Leave out rows without any content, which spreadsheets export, and note their number."""
    filled = [any(cell and cell.strip() for cell in row) for row in table.rows]
    blank = len(filled) - sum(filled)
    if not blank:
        return table
    return replace(
        table,
        rows=DiskBackedList(compress(table.rows, filled)),
        lines=list(compress(table.lines, filled)),
        notes=(
            *table.notes,
            f"{table.name}: {blank:,} blank row{'s' if blank > 1 else ''} left out.",
        ),
    )


def iter_stream_lines(name: str, stream: TextIO, longest: int = MAX_FIELD_CHARS) -> Iterator[str]:
    """Yield the lines of a stream with their line endings, in bounded memory.

    Args:
        name: name of the file, for the error message.
        stream: the stream.
        longest: maximum number of characters per line.

    Raises:
        UsageError: a line is longer.
    """
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise UsageError(
                f"{name}:{number}: line of more than {longest:,} characters, the maximum"
            )
        yield line


def to_cell(value: object) -> str | None:
    """Convert a JSON, Parquet or hub value to text as in a CSV file; None for null and NaN.

    Lone surrogates (from a text that was cut inside an emoji) and bytes that are not UTF-8 become
    U+FFFD, which the audit reports.
    """
    if value is None or value != value:  # NaN is not equal to itself
        return None
    # As JSON and CSV exports spell it; a bool is an int, too.
    if isinstance(value, bool):
        return "true" if value else "false"
    # pandas makes floats of a column of integers with a gap: a label 3 would become "3.0".
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    text = (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, list | dict)
        else str(value)
    )
    return (
        # UTF-16 joins two halves that belong together, and replaces single ones.
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if _SURROGATE.search(text)
        else text
    )
