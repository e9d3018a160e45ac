"""Reader for delimited text: CSV and its variants."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prooftune.data.readers.footers import LastRows
from prooftune.data.readers.records import OpenLines, Record, detect_quoting, iter_records
from prooftune.data.readers.table import (
    Table,
    footer_note,
    header_notes,
    strip_invisible,
    unique_names,
)
from prooftune.errors import UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList


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
        footer: the lines below the table, such as a total, each with its cells joined; left out.
        end: the line on which the footer begins; 0 without one.
        wrapped: positions of columns whose cells are all in quotes that quote nothing, since the
            file cannot be read as quoted; the quotes are left out.
    """

    columns: list[str]
    quoted: bool
    rows: int
    repeated: tuple[str, ...] = ()
    header_rows: int = 0
    long_rows: int = 0
    footer: tuple[str, ...] = ()
    end: int = 0
    wrapped: tuple[int, ...] = ()


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
        for line, fields in iter_rows(name, open_lines(), source, delimiter, layout):
            lines.append(line)
            # MySQL and PostgreSQL write NULL so.
            yield [None if field == "\\N" else field for field in fields]

    stored = DiskBackedList(rows())
    notes = [*header_notes(name, layout.repeated, layout.header_rows)]
    if layout.long_rows:
        notes.append(
            f"{name}: {layout.long_rows:,} row{'s end' if layout.long_rows > 1 else ' ends'} with "
            "separators too many, which are ignored."
        )
    if layout.wrapped:
        names = ", ".join(repr(layout.columns[i]) for i in layout.wrapped[:8])
        notes.append(f"{name}: the quotes around all cells of {names} are left out.")
    notes += footer_note(name, layout.footer)
    return Table(name, layout.columns, stored, lines, notes=tuple(notes), repeated=layout.repeated)


def iter_rows(
    name: str, lines: Iterable[str], source: Source, delimiter: str, layout: DelimitedLayout
) -> Iterator[Record]:
    """Yield the rows between header and footer, as wide as the table."""
    records = iter_records(name, lines, delimiter, layout.quoted)
    width, wrapped = len(layout.columns), frozenset(layout.wrapped)
    for line, fields in _skip_headers(records, source, wrapped):
        if layout.end and line >= layout.end:
            return
        yield line, _unwrapped(fields[:width], wrapped)


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
    wrapped = (
        frozenset[int]()
        if quoted or source.quoting is False
        else _wrapped_columns(iter_records(name, open_lines(), delimiter, quoted))
    )
    records = iter_records(name, open_lines(), delimiter, quoted)
    header = None
    if source.header:
        first = next(filter(_is_filled, records), None)
        header = _header_names(first[1], wrapped) if first else None
    repeated: tuple[str, ...] = ()
    columns = source.columns
    if header and not columns:
        columns, repeated = unique_names(header)
    counts = _Counts()
    last = LastRows[Record]()
    for record in records:
        if header and _repeats_header(record[1], header, wrapped):
            counts.header_rows += 1
            continue
        if columns is None or not (counts.rows or last):
            columns = columns or [str(i) for i in range(len(record[1]))]
            _check_names(name, source, header, columns)
        for complete in last.add(record, record[1], len(columns)):
            counts.add(complete, len(columns))
    rest, footer = last.footer()
    for complete in rest:
        counts.add(complete, len(columns or ()))
    if not counts.rows or columns is None:
        raise UsageError(
            f"{name} contains a header but no rows" if header else f"{name} contains no rows"
        )
    if counts.ragged:
        raise UsageError(_ragged_message(name, counts, columns, delimiter))
    return DelimitedLayout(
        columns,
        quoted,
        counts.rows,
        repeated,
        counts.header_rows,
        counts.long_rows,
        footer=tuple(
            delimiter.join(filter(str.strip, fields)) for _, fields in footer if any(fields)
        ),
        end=footer[0][0] if footer else 0,
        wrapped=tuple(sorted(wrapped)) if len(columns) > 1 else (),
    )


@dataclass(slots=True)
class _Counts:
    """Rows of a file by their shape.

    Attributes:
        rows, header_rows, long_rows: as in `DelimitedLayout`.
        ragged: number of rows of another length than the table's.
        first_ragged: line of the first of these, and its number of fields.
    """

    rows: int = 0
    header_rows: int = 0
    long_rows: int = 0
    ragged: int = 0
    first_ragged: tuple[int, int] = (0, 0)

    def add(self, record: Record, width: int) -> None:
        line, fields = record
        self.rows += 1
        if _has_empty_tail(fields, width):
            self.long_rows += 1
        elif len(fields) != width:
            # Count all ragged rows: one is a typo, many are a wrong delimiter.
            self.first_ragged = self.first_ragged if self.ragged else (line, len(fields))
            self.ragged += 1


def _wrapped_columns(records: Iterable[Record]) -> frozenset[int]:
    """The columns whose cells are all in quotes: files of `quoting=3` in R and pandas keep the
    quotes that another program wrote."""
    wrapped: set[int] | None = None
    for number, (_, fields) in enumerate(records):
        # Names of columns are often not in quotes.
        if number:
            inside = {i for i, cell in enumerate(fields) if _is_wrapped(cell)}
            wrapped = inside if wrapped is None else wrapped & inside
            if not wrapped:
                break
    return frozenset(wrapped or ())


def _is_wrapped(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _unwrapped(fields: list[str], wrapped: frozenset[int]) -> list[str]:
    """The fields without the quotes around the cells of these columns, and with single quotes for
    doubled or escaped ones in them."""
    if not wrapped:
        return fields
    return [
        cell[1:-1].replace('\\"', '"').replace('""', '"')
        if i in wrapped and _is_wrapped(cell)
        else cell
        for i, cell in enumerate(fields)
    ]


def _has_empty_tail(fields: list[str], width: int) -> bool:
    """Whether a row only has separators too many at its end, as spreadsheets write them."""
    return len(fields) > width and not any(map(str.strip, fields[width:]))


def _skip_headers(
    records: Iterator[Record], source: Source, wrapped: frozenset[int]
) -> Iterator[Record]:
    """Skip the row with the column names, if the source has one, and its repetitions below, as in
    files that were appended to each other."""
    if not source.header:
        yield from records
        return
    first = next(filter(_is_filled, records), None)
    header = _header_names(first[1], wrapped) if first else []
    for record in records:
        if not _repeats_header(record[1], header, wrapped):
            yield record


def _is_filled(record: Record) -> bool:
    # Spreadsheets write rows of separators alone between a title and the header.
    return any(map(str.strip, record[1]))


def _repeats_header(fields: list[str], header: list[str], wrapped: frozenset[int]) -> bool:
    # A single cell that equals the name of its column may be a text.
    return len(header) > 1 and _header_names(fields[: len(header)], wrapped) == header


def _header_names(header: list[str], wrapped: frozenset[int] = frozenset()) -> list[str]:
    """Return the column names; a column without one (the index of pandas) is named by position."""
    if wrapped:  # all names may be in quotes where numbers below them are not
        header = [cell[1:-1] if _is_wrapped(cell) else cell for cell in header]
    return [strip_invisible(cell) or f"column_{number}" for number, cell in enumerate(header, 1)]


def _check_names(name: str, source: Source, header: list[str] | None, columns: list[str]) -> None:
    repeated = ", ".join(map(repr, sorted(c for c, n in Counter(columns).items() if n > 1)))
    if repeated:
        raise UsageError(f"data.columns names {repeated} twice")
    if source.columns and header is not None and len(header) != len(columns):
        raise UsageError(
            f"{name}: data.columns names {len(columns)} columns, the header {len(header)} "
            f"({', '.join(header[:6])}). If the first row is data, set data.header: false"
        )


def _ragged_message(name: str, counts: _Counts, columns: list[str], delimiter: str) -> str:
    line, num_fields = counts.first_ragged
    others = (
        f" (and {counts.ragged - 1:,} more of {counts.rows:,} rows)" if counts.ragged > 1 else ""
    )
    return (
        f"{name}:{line}: {num_fields} field{'s' if num_fields != 1 else ''}, but {len(columns)} "
        f"expected ({', '.join(c[:60] for c in columns[:6])}){others}. "
        f"Is {delimiter!r} the right data.delimiter, and are fields quoted (data.quoting: true or "
        "false)?"
    )
