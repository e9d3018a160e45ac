"""Readers for delimited text: CSV and its variants, and ``text<delimiter>label`` lines."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prooftune.data.readers.table import MAX_FIELD_CHARS, Table, header_notes, unique_names
from prooftune.errors import UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList

Record = tuple[int, list[str]]
"""The line on which a row starts, and its fields."""

OpenLines = Callable[[], Iterable[str]]
"""Opens a file and returns its lines from the start, with all kinds of line endings preserved."""


@dataclass(frozen=True, slots=True)
class DelimitedLayout:
    """The layout of a delimited file.

    Attributes:
        columns: column names.
        quoted: whether ``"`` quotes fields.
        rows: number of rows below the header.
        repeated: names that the header has more than once; their columns are numbered.
        header_rows: number of rows that repeat the header, which are left out.
        long_rows: number of rows with separators too many at their end.
    """

    columns: list[str]
    quoted: bool
    rows: int
    repeated: tuple[str, ...] = ()
    header_rows: int = 0
    long_rows: int = 0


def read_csv(name: str, open_lines: OpenLines, source: Source, delimiter: str) -> Table:
    """Read a delimited file.

    Args:
        name: name of the file, for messages.
        open_lines: opens the file; it is read twice or more.
        source: header, column names and quoting.
        delimiter: column separator.

    Raises:
        UsageError: rows of different length, an unclosed quote, or no rows.
    """
    layout = scan_delimited(name, open_lines, source, delimiter)
    lines = array("q")

    def rows() -> Iterator[list[str | None]]:
        records = iter_records(name, open_lines(), delimiter, layout.quoted)
        for line, fields in skip_headers(records, source):
            lines.append(line)
            yield [*fields[: len(layout.columns)]]

    stored = DiskBackedList(rows())
    notes = header_notes(name, layout.repeated, layout.header_rows)
    if layout.long_rows:
        notes = (
            *notes,
            f"{name}: {layout.long_rows:,} row{'s end' if layout.long_rows > 1 else ' ends'} with "
            "separators too many, which are ignored.",
        )
    return Table(name, layout.columns, stored, lines, notes=notes, repeated=layout.repeated)


def scan_delimited(
    name: str, open_lines: OpenLines, source: Source, delimiter: str
) -> DelimitedLayout:
    """Detect and check the layout of a delimited file, with one row in memory at a time.

    A name that the header has twice is numbered (``note``, ``note_2``), since columns that nobody
    reads need no name.

    Args:
        name, open_lines, source, delimiter: as for `read_csv`.

    Raises:
        UsageError: rows of different length, an unclosed quote, or no rows.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(
            "data.delimiter must be a single character other than a quote or line break, found "
            f"{delimiter!r}"
        )
    # The file is read several times rather than held in memory.
    quoted = detect_quoting(name, open_lines, delimiter, source.quoting)
    records = iter_records(name, open_lines(), delimiter, quoted)
    header = None
    if source.header:
        first = next(filter(_is_filled, records), None)
        header = _header_names(first[1]) if first else None
    repeated: tuple[str, ...] = ()
    header_rows = long_rows = 0
    columns, num_rows, num_ragged, first_ragged = source.columns, 0, 0, (0, 0)
    if header and not columns:
        columns, repeated = unique_names(header)
    for line, fields in records:
        if header and _repeats_header(fields, header):
            header_rows += 1
            continue
        if not num_rows:
            columns = columns or [str(i) for i in range(len(fields))]
            _check_names(name, source, header, columns)
        num_rows += 1
        if columns and _has_empty_tail(fields, len(columns)):
            long_rows += 1
        elif columns and len(fields) != len(columns):
            # Count all ragged rows: one is a typo, many are a wrong delimiter.
            first_ragged = first_ragged if num_ragged else (line, len(fields))
            num_ragged += 1
    if not num_rows or columns is None:
        raise UsageError(
            f"{name} contains a header but no rows" if header else f"{name} contains no rows"
        )
    if num_ragged:
        raise UsageError(
            _ragged_message(name, first_ragged, num_ragged, columns, delimiter, num_rows)
        )
    return DelimitedLayout(columns, quoted, num_rows, repeated, header_rows, long_rows)


def _has_empty_tail(fields: list[str], width: int) -> bool:
    """Whether a row only has separators too many at its end, as spreadsheets write them."""
    return len(fields) > width and not any(map(str.strip, fields[width:]))


def skip_headers(records: Iterator[Record], source: Source) -> Iterator[Record]:
    """Skip the row with the column names, if the source has one, and its repetitions below, as in
    files that were appended to each other."""
    if not source.header:
        yield from records
        return
    first = next(filter(_is_filled, records), None)
    header = _header_names(first[1]) if first else []
    for record in records:
        if not _repeats_header(record[1], header):
            yield record


def _is_filled(record: Record) -> bool:
    # Spreadsheets write rows of separators alone between a title and the header.
    return any(map(str.strip, record[1]))


def _repeats_header(fields: list[str], header: list[str]) -> bool:
    # A single cell that equals the name of its column may be a text.
    return len(header) > 1 and _header_names(fields[: len(header)]) == header


def _header_names(header: list[str]) -> list[str]:
    """Return the column names; a column without one (the index of pandas) is named by position."""
    return [cell.strip() or f"column_{number}" for number, cell in enumerate(header, start=1)]


def _check_names(name: str, source: Source, header: list[str] | None, columns: list[str]) -> None:
    repeated = ", ".join(map(repr, sorted({c for c in columns if columns.count(c) > 1})))
    if repeated:
        raise UsageError(f"data.columns names {repeated} twice")
    if source.columns and header is not None and len(header) != len(columns):
        raise UsageError(
            f"{name}: data.columns names {len(columns)} columns, the header {len(header)} "
            f"({', '.join(header[:6])}). If the first row is data, set data.header: false"
        )


def _ragged_message(
    name: str,
    first_ragged: tuple[int, int],
    num_ragged: int,
    columns: list[str],
    delimiter: str,
    num_rows: int,
) -> str:
    line, num_fields = first_ragged
    others = f" (and {num_ragged - 1:,} more of {num_rows:,} rows)" if num_ragged > 1 else ""
    return (
        f"{name}:{line}: {num_fields} field{'s' if num_fields != 1 else ''}, but {len(columns)} "
        f"expected ({', '.join(c[:60] for c in columns[:6])}){others}. "
        f"Is {delimiter!r} the right data.delimiter, and are fields quoted (data.quoting: true or "
        "false)?"
    )


def parse_records(name: str, text: str, delimiter: str, quoting: bool | None) -> list[Record]:
    """Parse a delimited text; `quoting` None: detect whether ``"`` quotes fields.

    Raises:
        UsageError: the text cannot be parsed, or a field is too long.
    """
    quoted = detect_quoting(name, lambda: _split_lines(text), delimiter, quoting)
    return list(iter_records(name, _split_lines(text), delimiter, quoted))


def detect_quoting(name: str, open_lines: OpenLines, delimiter: str, quoting: bool | None) -> bool:
    """Return whether ``"`` quotes fields: the recipe's setting, else detected by parsing both ways.

    Fields are quoted if the file parses strictly that way and no quoted field contains lines that
    are rows when parsed unquoted.

    Raises:
        UsageError: the file parses neither way, or a field is too long.
    """
    # Without a single quote both readings are the same, and two passes over the file are saved.
    if quoting is not None or not any('"' in line for line in open_lines()):
        return quoting is not False

    # Parsed only if needed, since it is another pass over the file.
    def is_even_unquoted() -> bool:
        return _evenness(iter_records(name, open_lines(), delimiter, False), delimiter)[0]

    try:
        is_even, swallows_rows = _evenness(
            iter_records(name, open_lines(), delimiter, True), delimiter
        )
    except UsageError:
        if is_even_unquoted():
            return False
        raise
    return (is_even and not swallows_rows) or not is_even_unquoted()


def _evenness(records: Iterator[Record], delimiter: str) -> tuple[bool, bool]:
    """Whether all rows have the same length, and whether a field contains lines that are rows."""
    lengths: set[int] = set()
    swallows_rows = False
    for _, fields in records:
        lengths.add(len(fields))
        swallows_rows = swallows_rows or any("\n" in f and delimiter in f for f in fields)
    return len(lengths) == 1, swallows_rows


def _split_lines(text: str) -> Iterator[str]:
    # newline="" splits where csv expects it, and not at Unicode line breaks inside fields, as
    # str.splitlines does.
    return io.StringIO(text, newline="")


def iter_records(name: str, lines: Iterable[str], delimiter: str, quoted: bool) -> Iterator[Record]:
    """Yield the rows of a delimited file, without empty lines.

    Raises:
        UsageError: a quote is unclosed or closes within a field, or a field is too long.
    """
    # Not strict, `csv` accepts text after a closing quote, and an unclosed quote swallows the rest
    # of the file.
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        strict=quoted,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    line = 1
    while True:
        # The limit is global to the process, so it is changed only during each read.
        previous_limit = csv.field_size_limit(MAX_FIELD_CHARS)
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _parse_error(f"{name}:{line}", str(error)) from None
        finally:
            csv.field_size_limit(previous_limit)
        if fields is None:
            return
        if fields:
            yield line, fields
        # Lines of the file and not records: a quoted field may hold line breaks.
        line = reader.line_num + 1


def _parse_error(location: str, message: str) -> UsageError:
    if "field larger" in message:
        return UsageError(
            f'{location}: field of more than {MAX_FIELD_CHARS:,} characters. Either a quote (") '
            "is opened there and never closed (then set data.quoting: false), or the file is not a "
            "table of texts"
        )
    if "unexpected end" in message:
        message = 'a quote (") is opened and never closed'
    return UsageError(
        f'{location}: {message}. If " is an ordinary character in this file, set data.quoting: '
        "false"
    )


def read_text_label_lines(name: str, lines: Iterable[str], delimiter: str | None) -> Table:
    """Read ``text<delimiter>label`` lines, split at the last delimiter: texts can contain it.

    Raises:
        UsageError: a line without delimiter, or no rows.
    """
    if not delimiter:
        raise UsageError(
            f"{name}: format text needs data.delimiter, the separator between text and label"
        )
    line_numbers = array("q")

    def read_rows() -> Iterator[list[str | None]]:
        for number, line in enumerate(lines, start=1):
            line = line.rstrip("\r\n")
            if not line.strip():
                continue
            # Split at the last delimiter, because texts contain it and labels do not.
            text, separator, label = line.rpartition(delimiter)
            if not separator:
                raise UsageError(
                    f"{name}:{number}: no {delimiter!r} between text and label in '{line[:60]}'"
                )
            line_numbers.append(number)
            yield [text, label]

    rows = DiskBackedList(read_rows())
    if not rows:
        raise UsageError(f"{name} contains no rows")
    return Table(name, ["text", "label"], rows, line_numbers)
