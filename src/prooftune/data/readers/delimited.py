"""Delimited text -> a table: CSV and its relatives, and lines of the form ``text<delimiter>label``."""

from __future__ import annotations

import csv
import io
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prooftune.data.readers.table import MAX_FIELD_CHARS, Table
from prooftune.errors import UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList

Record = tuple[int, list[str]]
"""The line on which a row starts, and its fields."""

OpenLines = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class DelimitedLayout:
    """How a delimited file is to be read, found by reading it once.

    Attributes:
        columns: names of the columns.
        quoted: whether ``"`` quotes.
        rows: how many there are below the header.
    """

    columns: list[str]
    quoted: bool
    rows: int


def read_csv(name: str, opened: OpenLines, source: Source, delimiter: str) -> Table:
    """Read a delimited file with one row of names, or none (`Source.header`).

    Args:
        name: of the file, for messages.
        opened: gives its lines from the beginning, with their ends, cut at every kind of line end.
        source: header, names and quoting.
        delimiter: between columns.

    Raises:
        UsageError: rows of different length, a name twice, a quote that is never closed, no rows.
    """
    layout = scan_delimited(name, opened, source, delimiter)
    lines = array("q")

    def rows() -> Iterator[list[str | None]]:
        for line, fields in skip_header(
            iter_records(name, opened(), delimiter, layout.quoted), source
        ):
            lines.append(line)
            yield [*fields]

    return Table(name, layout.columns, DiskBackedList(rows()), lines)


def scan_delimited(name: str, opened: OpenLines, source: Source, delimiter: str) -> DelimitedLayout:
    """Look through a delimited file, holding one row at a time, and refuse what cannot be read.

    Args:
        name: of the file, for messages.
        opened, source, delimiter: as for `read_csv`.

    Raises:
        UsageError: rows of different length, a name twice, a quote that is never closed, no rows.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(
            f"data.delimiter: one character that is no quote and no line break, found {delimiter!r}"
        )
    quoted = detect_quoting(name, opened, delimiter, source.quoting)
    rows = iter_records(name, opened(), delimiter, quoted)
    header = None
    if source.header:
        first = next(rows, None)
        header = _names(first[1]) if first else None
    columns, count, ragged, odd = source.columns or header, 0, 0, (0, 0)
    for line, fields in rows:
        if not count:
            columns = columns or [str(i) for i in range(len(fields))]
            _check_names(name, source, header, columns)
        count += 1
        if columns and len(fields) != len(columns):
            odd = odd if ragged else (line, len(fields))
            ragged += 1
    if not count or columns is None:
        raise UsageError(
            f"{name} holds a header and no rows" if header else f"{name} holds no rows"
        )
    if ragged:
        raise UsageError(_ragged(name, odd, ragged, columns, delimiter, count))
    return DelimitedLayout(columns, quoted, count)


def skip_header(rows: Iterator[Record], source: Source) -> Iterator[Record]:
    """The rows after the one that names the columns, where there is one."""
    return itertools.islice(rows, 1 if source.header else 0, None)


def _names(header: list[str]) -> list[str]:
    """Names of the columns: those of the header; by place where it has none, as above the row
    numbers of pandas."""
    return [cell.strip() or f"column_{number}" for number, cell in enumerate(header, start=1)]


def _check_names(name: str, source: Source, header: list[str] | None, columns: list[str]) -> None:
    twice = ", ".join(map(repr, sorted({c for c in columns if columns.count(c) > 1})))
    if twice and source.columns:
        raise UsageError(f"data.columns names {twice} twice")
    if twice:
        raise UsageError(
            f"{name}: the header names {twice} twice. If the first row is data, set data.header: "
            "false; otherwise "
            "give data.columns"
        )
    if source.columns and header is not None and len(header) != len(columns):
        raise UsageError(
            f"{name}: data.columns names {len(columns)} columns, the header {len(header)} "
            f"({', '.join(header[:6])}). If the first row is data, set data.header: false"
        )


def _ragged(
    name: str, odd: tuple[int, int], ragged: int, columns: list[str], delimiter: str, rows: int
) -> str:
    line, found = odd
    others = f" (and {ragged - 1:,} more of {rows:,} rows)" if ragged > 1 else ""
    return (
        f"{name}:{line}: {found} field{'s' if found != 1 else ''} where {len(columns)} "
        f"{'are' if len(columns) != 1 else 'is'} expected "
        f"({', '.join(c[:60] for c in columns[:6])}){others}. "
        f"Is {delimiter!r} the right data.delimiter, and are fields quoted (data.quoting: true or "
        "false)?"
    )


def parse_records(name: str, text: str, delimiter: str, quoting: bool | None) -> list[Record]:
    """The rows of a delimited text; where it is not said whether ``"`` quotes, that is found by
    looking.

    Raises:
        UsageError: no reading makes sense; a field is longer than any text.
    """
    return list(
        iter_records(
            name,
            _lines(text),
            delimiter,
            detect_quoting(name, lambda: _lines(text), delimiter, quoting),
        )
    )


def detect_quoting(name: str, opened: OpenLines, delimiter: str, said: bool | None) -> bool:
    """Whether ``"`` quotes: as the recipe says or, where it does not, found by trying both
    readings.

    Quoted it is if that parses strictly and does not swallow rows that plain reading keeps whole.

    Raises:
        UsageError: neither reading makes sense; a field is longer than any text.
    """
    if said is not None or not any('"' in line for line in opened()):
        return said is not False

    def plain_is_even() -> bool:
        return _seen(iter_records(name, opened(), delimiter, False), delimiter)[0]

    try:
        even, swallows = _seen(iter_records(name, opened(), delimiter, True), delimiter)
    except UsageError:
        if plain_is_even():
            return False
        raise
    return (even and not swallows) or not plain_is_even()


def _seen(rows: Iterator[Record], delimiter: str) -> tuple[bool, bool]:
    """Whether there are rows, all of one length; and whether a field holds lines that look like
    rows."""
    lengths: set[int] = set()
    swallows = False
    for _, fields in rows:
        lengths.add(len(fields))
        swallows = swallows or any("\n" in field and delimiter in field for field in fields)
    return len(lengths) == 1, swallows


def _lines(text: str) -> Iterator[str]:
    # newline="" cuts lines where csv expects it, and keeps the Unicode line breaks inside fields
    # that str.splitlines would cut at.
    return io.StringIO(text, newline="")


def iter_records(name: str, lines: Iterable[str], delimiter: str, quoted: bool) -> Iterator[Record]:
    """The rows of a delimited file one after another, empty lines left out.

    Raises:
        UsageError: a quote is never closed or closes within a field, a field is longer than any
            text.
    """
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        strict=quoted,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    line = 1
    while True:
        # The limit is one for the whole process, so it is ours only while we read.
        previous = csv.field_size_limit(MAX_FIELD_CHARS)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _unreadable(f"{name}:{line}", str(error)) from None
        finally:
            csv.field_size_limit(previous)
        if fields is None:
            return
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _unreadable(where: str, said: str) -> UsageError:
    if "field larger" in said:
        return UsageError(
            f'{where}: a field of more than {MAX_FIELD_CHARS:,} characters. Either a quote (") '
            "opens there and is "
            "never closed (then set data.quoting: false), or this is no table of texts"
        )
    what = 'a quote (") opens and is never closed' if "unexpected end" in said else said
    return UsageError(
        f'{where}: {what}. If " is an ordinary character in this file, set data.quoting: false'
    )


def read_text_label_lines(name: str, all_lines: Iterable[str], delimiter: str | None) -> Table:
    """Read lines of the form ``text<delimiter>label``, each split at its last delimiter: texts may
    hold it, labels may not.

    Raises:
        UsageError: a line without delimiter; no rows.
    """
    if not delimiter:
        raise UsageError(
            f"{name}: format text needs data.delimiter, what stands between the text and its label"
        )
    lines = array("q")

    def rows() -> Iterator[list[str | None]]:
        for number, line in enumerate(all_lines, start=1):
            line = line.rstrip("\r\n")
            if not line.strip():
                continue
            before, found, label = line.rpartition(delimiter)
            if not found:
                raise UsageError(
                    f"{name}:{number}: no {delimiter!r} between text and label in '{line[:60]}'"
                )
            lines.append(number)
            yield [before, label]

    found = DiskBackedList(rows())
    if not found:
        raise UsageError(f"{name} holds no rows")
    return Table(name, ["text", "label"], found, lines)
