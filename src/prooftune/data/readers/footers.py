"""Lines that programs write below a table: totals, counts of rows, "end of report"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Generic, TypeVar

_Row = TypeVar("_Row")

_TOTALS = r"(?:(?:grand|sub)[ -]?)?totals?|sum|summe|gesamt|итого|всего|合計|合计|总计|總計"
_COUNT = r"[\d][\d.,\s]*"
_FOOTER = re.compile(
    r"|".join(
        (
            rf"\(?{_COUNT} (?:rows?|records?|results?|zeilen?|lignes?|filas?)\b"
            r"(?: (?:affected|selected|returned|exported|in set.*))?\)?\.?",
            rf"(?:{_TOTALS})(?: (?:rows?|records?|count|number of \w+))?\s*[:=]?\s*(?:{_COUNT})?",
            r"[-/#*=<\s]*(?:end|eof)(?: of [\w ]{1,20})?[-/#*=>\s.]*",
            r"(?:report )?(?:generated|exported|printed|downloaded)(?: on| at|:| from)?"
            r" .{0,60}\d.{0,20}",
            r"(?:report )?(?:generated|exported|printed) by (?-i:[A-Z]).{0,60}",
            r"time: .{0,30}",
            r"[-=*_#]{3,}",
            # Control-Z, by which programs of DOS mark the end of a file.
            r"\x1a",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
_TOTAL = re.compile(rf"(?:{_TOTALS})\s*:?", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d[\d.,\s]*%?")
_MAX_ROWS = 5
"""Rows that a footer has at most."""


def is_footer(cells: Sequence[str | None], width: int) -> bool:
    """Whether a row is what programs write below a table, if no ordinary row follows it.

    Args:
        cells: the row.
        width: number of columns of the table.
    """
    # Nearly all rows end here: without an empty cell, only totals are a footer.
    if len(cells) >= width > 1 and all(cells) and not _TOTAL.match(cells[0] or ""):
        return False
    filled = [cell.strip() for cell in cells if cell and cell.strip()]
    if not filled or width < 2:
        return filled == ["\x1a"]
    if len(filled) < width and _FOOTER.fullmatch(" ".join(filled)):
        return True
    # A total has numbers below all columns that it adds up.
    return (
        len(filled) > 1
        and bool(_TOTAL.fullmatch(filled[0]))
        and all(map(_NUMBER.fullmatch, filled[1:]))
    )


class LastRows(Generic[_Row]):
    """Holds back rows that are a footer if the file ends after them.

    `add` returns the rows that are none. What `footer` returns at the end is one, with the blank
    rows above and in it.
    """

    def __init__(self) -> None:
        self._held: list[tuple[_Row, bool]] = []

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, row: _Row, cells: Sequence[str | None], width: int) -> list[_Row]:
        """Take the next row, and return those that can be no footer any more."""
        footer = is_footer(cells, width)
        if not footer and any(cell and cell.strip() for cell in cells):
            return [*self.flush(), row] if self._held else [row]
        self._held.append((row, footer))
        return [self._held.pop(0)[0]] if len(self._held) > _MAX_ROWS else []

    def flush(self) -> list[_Row]:
        """Return all rows that are held back, as ordinary ones."""
        rows = [row for row, _ in self._held]
        self._held = []
        return rows

    def footer(self) -> tuple[list[_Row], list[_Row]]:
        """The ordinary rows that are still held back, and the footer's."""
        ends = any(footer for _, footer in self._held)
        rows = self.flush()
        return ([], rows) if ends else (rows, [])
