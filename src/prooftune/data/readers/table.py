"""The table of strings that every format is read into."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from prooftune.errors import UsageError

MAX_FIELD_CHARS = 1_000_000
"""Characters. A longer field is a quote that was never closed, or a file of another kind."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file.

    Attributes:
        name: of the file, for messages.
        columns: names, or ``0``, ``1`` … where the file has none.
        rows: one list of strings per row, as long as `columns`; None where the file holds no value.
            Of formats that are read row by row they lie in a file (`DiskBackedList`).
        lines: where each row stands in the file, counted as an editor does (JSON arrays and
            Parquet: row number); for a folder of files, their names.
        located: whether `lines` name the file as well, as for several files read as one table.
    """

    name: str
    columns: list[str]
    rows: Sequence[list[str | None]]
    lines: Sequence[int | str]
    located: bool = False

    def location(self, row: int) -> str:
        """File and line of a row, for messages and ids."""
        return str(self.lines[row]) if self.located else f"{self.name}:{self.lines[row]}"


def iter_stream_lines(name: str, stream: TextIO, longest: int = MAX_FIELD_CHARS) -> Iterator[str]:
    """The lines of a stream with their ends, never more of one in memory than `longest` characters.

    Raises:
        UsageError: a longer line, which no text can be.
    """
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise UsageError(
                f"{name}:{number}: a line of more than {longest:,} characters; no text may be "
                "longer"
            )
        yield line


def to_cell(value: Any) -> str | None:
    """A JSON, Parquet or hub value as it would stand in a CSV file; None for null and not-a-number.

    Characters that no file can hold (halves of a surrogate pair, as in a text cut inside an emoji)
    and bytes that are not UTF-8 become U+FFFD, which the audit reports.
    """
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
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
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if _SURROGATE.search(text)
        else text
    )
