"""Delimited text -> a table: CSV and its relatives, and lines of the form ``text<delimiter>label``."""

from __future__ import annotations

import csv
import io

from prooftune.data.table import LONGEST_FIELD, Table, refuse_long
from prooftune.errors import UsageError
from prooftune.recipe import Source

Record = tuple[int, list[str]]
"""The line on which a row starts, and its fields."""


def read_csv(name: str, text: str, source: Source, delimiter: str) -> Table:
    """Read a delimited file with one row of names, or none (`Source.header`).

    Raises:
        UsageError: rows of different length, a name twice, a quote that is never closed, no rows.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UsageError(f"data.delimiter: one character that is no quote and no line break, found {delimiter!r}")
    rows = records(name, text, delimiter, source.quoting)
    if not rows:
        raise UsageError(f"{name} holds no rows")
    header = _names(rows.pop(0)[1]) if source.header else None
    if not rows:
        raise UsageError(f"{name} holds a header and no rows")
    columns = source.columns or header or [str(i) for i in range(len(rows[0][1]))]
    _check_names(name, source, header, columns)
    ragged = [(line, len(fields)) for line, fields in rows if len(fields) != len(columns)]
    if ragged:
        raise UsageError(_ragged(name, ragged, columns, delimiter, len(rows)))
    return Table(name, columns, [list(fields) for _, fields in rows], [line for line, _ in rows])


def _names(header: list[str]) -> list[str]:
    """Names of the columns: those of the header; by place where it has none, as above the row numbers of pandas."""
    return [cell.strip() or f"column_{number}" for number, cell in enumerate(header, start=1)]


def _check_names(name: str, source: Source, header: list[str] | None, columns: list[str]) -> None:
    twice = ", ".join(map(repr, sorted({c for c in columns if columns.count(c) > 1})))
    if twice and source.columns:
        raise UsageError(f"data.columns names {twice} twice")
    if twice:
        raise UsageError(f"{name}: the header names {twice} twice. If the first row is data, set data.header: false; otherwise "
                         "give data.columns")
    if source.columns and header is not None and len(header) != len(columns):
        raise UsageError(f"{name}: data.columns names {len(columns)} columns, the header {len(header)} "
                         f"({', '.join(header[:6])}). If the first row is data, set data.header: false")


def _ragged(name: str, ragged: list[tuple[int, int]], columns: list[str], delimiter: str, rows: int) -> str:
    line, found = ragged[0]
    others = f" (and {len(ragged) - 1:,} more of {rows:,} rows)" if len(ragged) > 1 else ""
    return (f"{name}:{line}: {found} field{'s' if found != 1 else ''} where {len(columns)} "
            f"{'are' if len(columns) != 1 else 'is'} expected ({', '.join(c[:60] for c in columns[:6])}){others}. "
            f"Is {delimiter!r} the right data.delimiter, and are fields quoted (data.quoting: true or false)?")


def records(name: str, text: str, delimiter: str, quoting: bool | None) -> list[Record]:
    """The rows of a delimited text.

    Where the recipe does not say whether ``"`` quotes, both readings are tried: quoted it is if that parses
    strictly and does not swallow rows that plain reading keeps whole.

    Raises:
        UsageError: neither reading makes sense; a field is longer than any text.
    """
    if quoting is not None or '"' not in text:
        return _parse(name, text, delimiter, quoting=quoting is not False)
    try:
        quoted = _parse(name, text, delimiter, quoting=True)
    except UsageError:
        plain = _parse(name, text, delimiter, quoting=False)
        if is_even(plain):
            return plain
        raise
    if is_even(quoted) and not any("\n" in field and delimiter in field for _, fields in quoted for field in fields):
        return quoted
    plain = _parse(name, text, delimiter, quoting=False)
    return plain if is_even(plain) else quoted


def is_even(rows: list[Record]) -> bool:
    """Whether there are rows, all of one length."""
    return bool(rows) and len({len(fields) for _, fields in rows}) == 1


def _parse(name: str, text: str, delimiter: str, *, quoting: bool) -> list[Record]:
    # newline="" cuts lines where csv expects it, and keeps the Unicode line breaks inside fields that
    # str.splitlines would cut at.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=quoting,
                        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
    previous = csv.field_size_limit(LONGEST_FIELD)
    rows: list[Record] = []
    line = 1
    try:
        for fields in reader:
            if fields:
                rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            raise UsageError(f"{name}:{line}: a field of more than {LONGEST_FIELD:,} characters. Either a quote (\") opens there "
                             "and is never closed (then set data.quoting: false), or this is no table of texts") from None
        what = "a quote (\") opens and is never closed" if "unexpected end" in str(error) else str(error)
        raise UsageError(f"{name}:{line}: {what}. If \" is an ordinary character in this file, set data.quoting: false") from None
    finally:
        csv.field_size_limit(previous)
    return rows


def read_text(name: str, text: str, delimiter: str | None) -> Table:
    """Read lines of the form ``text<delimiter>label``, each split at its last delimiter: texts may hold it, labels may not.

    Raises:
        UsageError: a line without delimiter; no rows.
    """
    if not delimiter:
        raise UsageError(f"{name}: format text needs data.delimiter, what stands between the text and its label")
    rows: list[list[str | None]] = []
    lines = []
    for number, line in enumerate(io.StringIO(text), start=1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        refuse_long(name, number, line)
        before, found, label = line.rpartition(delimiter)
        if not found:
            raise UsageError(f"{name}:{number}: no {delimiter!r} between text and label in '{line[:60]}'")
        rows.append([before, label])
        lines.append(number)
    if not rows:
        raise UsageError(f"{name} holds no rows")
    return Table(name, ["text", "label"], rows, lines)
