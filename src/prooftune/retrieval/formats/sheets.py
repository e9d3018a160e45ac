"""Spreadsheets and delimited tables -> rows as text, every cell with the name of its column."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.formats.decoding import decode
from prooftune.retrieval.types import DocumentPart

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 50


def read_sheet(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """One part per visible sheet (.xlsx, .xlsm, .xlsb, .xls, .ods) and a note on hidden ones.

    Raises:
        UnreadableDocument: it is encrypted or damaged.
        UsageError: python-calamine is not installed.
    """
    try:
        import python_calamine as calamine
    except ImportError:
        raise UsageError(
            "spreadsheets need python-calamine: pip install 'prooftune[retrieval]'"
        ) from None
    try:
        book = calamine.load_workbook(io.BytesIO(content))
        visible = [
            sheet.name
            for sheet in book.sheets_metadata
            if sheet.visible == calamine.SheetVisibleEnum.Visible
            # Charts and macros are sheets of a workbook, too.
            and sheet.typ == calamine.SheetTypeEnum.WorkSheet
        ]
        tables = {name: book.get_sheet_by_name(name).to_python() for name in visible}
    except calamine.PasswordError:
        raise UnreadableDocument(
            "encrypted: open it with its password in Excel or LibreOffice and save it without"
        ) from None
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise UnreadableDocument(
            f"damaged spreadsheet ({error}): open it in its program and save it again"
        ) from None
    parts = [
        DocumentPart(rows_as_text([[_cell(value) for value in row] for row in rows]), section=name)
        for name, rows in tables.items()
    ]
    hidden = len(book.sheet_names) - len(visible)
    return parts, f"hidden sheets left out: {hidden}" if hidden else None


def read_delimited(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """The rows of a CSV or TSV file.

    Raises:
        UnreadableDocument: it is not text, or a field is too long.
    """
    decoded = decode(content)
    lines = decoded.text.split("\n", _SAMPLE_ROWS)
    # The first of equals: a comma.
    delimiter = max(_DELIMITERS, key=lambda d: _regular_rows(lines[:_SAMPLE_ROWS], d))
    try:
        rows = list(csv.reader(io.StringIO(decoded.text), delimiter=delimiter))
    except csv.Error as error:
        raise UnreadableDocument(f"not a table of delimited text: {error}") from None
    text = rows_as_text([[cell.strip() for cell in row] for row in rows])
    return [DocumentPart(text)], decoded.note


def _regular_rows(lines: Sequence[str], delimiter: str) -> int:
    """How many rows have as many columns as the first one, if it has several."""
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return 0
    return widths.count(widths[0]) if widths and widths[0] > 1 else 0


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as paragraphs: a line ``column: cell`` for every cell, if the first row names the
    columns; else the cells in one line. Empty cells and rows are left out."""
    filled = [row for row in rows if any(row)]
    if not filled:
        return ""
    names = [name for name in filled[0] if name]
    # As in `init`: column names are several, different, and no numbers.
    header = (
        len(filled) > 1
        and len(names) > 1
        and len(set(names)) == len(names)
        and not any(_is_number(name) for name in names)
    )
    if not header:
        return "\n".join(" ".join(filter(None, row)) for row in filled)
    columns = filled[0]
    return "\n\n".join(
        "\n".join(
            f"{columns[i]}: {cell}" if i < len(columns) and columns[i] else cell
            for i, cell in enumerate(row)
            if cell
        )
        for row in filled[1:]
    )


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace(",", "").replace("-", "").isdigit()


def _cell(value: object) -> str:
    # Spreadsheets have only floats: 3.0 is written 3.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat(*((" ",) if isinstance(value, datetime.datetime) else ()))
    return str(value).strip()
