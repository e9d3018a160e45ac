"""Spreadsheets (.xlsx, .xlsm, .xlsb, .xls, .ods) -> a table of strings, by python-calamine."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.data.readers.footers import is_footer
from prooftune.data.readers.header_rows import extra_header_rows, joined_header
from prooftune.data.readers.table import Table, footer_note, header_notes, to_cell, unique_names
from prooftune.errors import UsageError, nearest

if TYPE_CHECKING:
    from python_calamine import CalamineWorkbook

_HEADER_SAMPLE = 500
"""Rows by which it is known where the header ends."""
SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


def split_sheet(path: Path) -> tuple[Path, str | None]:
    """The file, and the sheet named after ``#``: ``reviews.xlsx#Sheet2``."""
    name, mark, sheet = path.name.partition("#")
    if mark and name.lower().endswith(SUFFIXES):
        return path.with_name(name), sheet
    return path, None


def read_spreadsheet(path: Path, sheet: str | None = None, *, header: bool = True) -> Table:
    """Read one sheet; the only one that holds rows, where none is named.

    Blank rows and columns are left out, numbers are written as in the sheet (``3``, not ``3.0``),
    dates in ISO 8601.

    Args:
        path: the spreadsheet.
        sheet: name of the sheet.
        header: whether the first row names the columns; else they are named ``0``, ``1`` …

    Raises:
        UsageError: python-calamine is not installed; the file is damaged or protected by a
            password; no or several sheets hold rows; two columns have one name.
    """
    book = _opened(path)
    if sheet is not None and sheet not in book.sheet_names:
        raise UsageError(
            f"{path.name} has no sheet '{sheet}'{nearest(sheet, book.sheet_names)}. It has "
            f"{', '.join(map(repr, book.sheet_names))}"
        )
    filled = {name: _cells(book, name) for name in ([sheet] if sheet else book.sheet_names)}
    # Sheets that are empty or have only a header do not make the choice ambiguous.
    filled = {name: rows for name, rows in filled.items() if len(rows) > 1}
    if not filled:
        raise UsageError(f"{path.name} contains no rows")
    if len(filled) > 1:
        raise UsageError(
            f"{path.name} has {len(filled)} sheets with rows ({', '.join(map(repr, filled))}): "
            f"name one, as in {path.name}#{next(iter(filled))}"
        )
    [(name, rows)] = filled.items()
    return _table(f"{path.name}#{name}" if sheet else path.name, rows, header)


def _opened(path: Path) -> Any:
    try:
        import python_calamine
    except ModuleNotFoundError:
        raise UsageError(
            f"{path} is a spreadsheet: pip install 'prooftune[files]' to read it, or save the "
            "sheet as CSV"
        ) from None
    try:
        return python_calamine.load_workbook(str(path))
    except python_calamine.PasswordError:
        raise UsageError(f"{path} is protected by a password; save it without one") from None
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise UsageError(f"{path} is not a spreadsheet, or is damaged: {error}") from None


def _cells(book: CalamineWorkbook, sheet: str) -> list[tuple[int, list[str | None]]]:
    """Rows that hold anything, with their numbers as the spreadsheet program counts them."""
    opened = book.get_sheet_by_name(sheet)
    # calamine begins at the first used cell, which may be in row 3 of the sheet.
    first = (opened.start or (0, 0))[0] + 1
    rows = [[_text(cell) for cell in row] for row in opened.to_python(skip_empty_area=True)]
    # A value that was merged over several rows holds for all of them. Merged columns are titles.
    left = (opened.start or (0, 0))[1]
    for (top, column), (bottom, last) in getattr(opened, "merged_cell_ranges", None) or ():
        if top < bottom and column == last:
            for row in rows[top - first + 2 : bottom - first + 2]:
                row[column - left] = rows[top - first + 1][column - left]
    return [(number, row) for number, row in enumerate(rows, first) if any(row)]


def _text(cell: object) -> str | None:
    # calamine's empty cell.
    if cell == "":
        return None
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return to_cell(cell)


def _table(name: str, rows: list[tuple[int, list[str | None]]], header: bool) -> Table:
    width = len(rows[0][1])
    # A column without any cell is only formatting.
    used = [i for i in range(width) if any(row[i] for _, row in rows)]
    title = ""
    header_note: tuple[str, ...] = ()
    if header:
        # A row of one cell above wider ones is a title and no header.
        while len(used) > 1 and len(rows) > 2 and sum(map(bool, rows[0][1])) == 1:
            title = title or next(filter(None, rows[0][1])) or ""
            rows = rows[1:]
        above, rows = _split_header(rows, used)
        header_cells = [[row[i] for i in used] for row in above]
        names = joined_header(header_cells)
        columns = [name or f"column_{i + 1}" for i, name in zip(used, names, strict=True)]
        if len(above) > 1:
            header_note = (
                f"{name}: the header takes {len(above)} rows; the columns are named "
                f"{', '.join(columns[:6])}{' …' if len(columns) > 6 else ''}.",
            )
    else:
        header_cells = []
        columns = [str(position) for position in range(len(used))]
    cells = [(n, [row[i] for i in used]) for n, row in rows]
    footer: list[str] = []
    while len(cells) > 1 and is_footer(cells[-1][1], len(used)):
        footer.insert(0, ", ".join(filter(None, cells.pop()[1])))
    # Pages that were appended to each other bring their headers.
    body = [(n, row) for n, row in cells if row not in header_cells]
    unique, repeated = unique_names(columns)
    notes = (
        *header_note,
        *header_notes(name, repeated, len(cells) - len(body)),
        *footer_note(name, footer),
    )
    if title:
        notes = (*notes, f"{name}: the title above the header is left out ({title[:60]!r}).")
    return Table(
        name,
        unique,
        [row for _, row in body],
        [n for n, _ in body],
        notes=notes,
        repeated=repeated,
    )


def _split_header(
    rows: list[tuple[int, list[str | None]]], used: Sequence[int]
) -> tuple[list[list[str | None]], list[tuple[int, list[str | None]]]]:
    """The rows of the header, and those below it."""
    sample = [[row[i] for i in used] for _, row in rows[:_HEADER_SAMPLE]]
    size = 1 + extra_header_rows(sample)
    return [row for _, row in rows[:size]], rows[size:]
