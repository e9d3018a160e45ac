"""Tables whose header takes several rows: survey exports, merged cells, units below the names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from prooftune.data.readers.table import strip_invisible

KNOWN_NAMES = (
    *("label", "labels", "category", "class", "sentiment", "target", "topic", "intent", "rating"),
    *("text", "sentence", "content", "review", "body", "message", "article", "description"),
    *("headline", "title", "document", "question", "answer", "stars", "polarity", "y"),
)
"""Column names that identify a header."""
_SURVEY_CELLS = {"open-ended response", "response", "other (please specify)"}
"""Cells of SurveyMonkey's second header row."""
_IMPORT_ID = re.compile(r'\{"ImportId":.*\}')
"""Cells of Qualtrics' third header row."""
_NUMBER_OR_DATE = re.compile(r"[-+]?\d[\d.,:/ -]*%?(T[\d:.]+Z?)?$")
_LONG = 20
"""Characters on average that make a column one of texts."""
_MIN_BELOW = 3

Cells = Sequence[str | None]


def extra_header_rows(rows: Sequence[Cells]) -> int:
    """How many rows below the first belong to the header: 0, 1 or 2.

    A row belongs to it if none of its cells comes again below, its cells in columns of texts are
    short, and it names units or data types, or what a survey program writes there. Without such
    evidence a row is data.

    Args:
        rows: the first rows, the header's first.
    """
    if len(rows) > 2 and _are_import_ids(rows[2]):
        return 2
    if len(rows) > 1 and _are_import_ids(rows[1]):
        return 1
    return int(len(rows) > 1 + _MIN_BELOW and _names_columns(rows[0], rows[1], rows[2:]))


def joined_header(rows: Sequence[Cells]) -> list[str]:
    """One name for each column from a header of several rows: those of the second row where the
    first has a name twice or leaves one out, as merged cells do, else those of the first."""
    first, second = (
        [strip_invisible(cell or "") for cell in row]
        for row in (rows[0], rows[min(1, len(rows) - 1)])
    )
    names = [name for name in first if name]
    if len(set(names)) == len(first) or sum(map(bool, second)) < len(names):
        return first
    return [below or above for above, below in zip(first, second, strict=True)]


def _are_import_ids(row: Cells) -> bool:
    filled = [cell for cell in row if cell and cell.strip()]
    return bool(filled) and all(_IMPORT_ID.fullmatch(cell.strip()) for cell in filled)


def _names_columns(header: Cells, row: Cells, below: Sequence[Cells]) -> bool:
    cells = {i: cell.strip() for i, cell in enumerate(row) if cell and cell.strip()}
    lowered = {cell.lower() for cell in cells.values()}
    if len(lowered & _SURVEY_CELLS) > 1:
        return True
    columns = {i: [(r[i] or "").strip() for r in below if i < len(r)] for i in range(len(header))}
    for i, cell in cells.items():
        if _NUMBER_OR_DATE.match(cell) or cell in columns.get(i, ()):
            return False
        filled = [value for value in columns.get(i, ()) if value]
        mean = sum(map(len, filled)) / max(1, len(filled))
        # Texts are longer than the names of their columns.
        if mean >= _LONG and 2 * len(cell) > mean:
            return False
    if lowered & _SURVEY_CELLS:
        return True
    known = len(lowered & {*KNOWN_NAMES})
    if known > 1:
        return True
    # A label that comes once may be any label; beside it, the kind of another column must differ.
    if cells and all(_are_labels(columns[i]) for i in cells if i in columns):
        return False
    return any(_measures(columns[i]) for i in cells if i in columns)


def _are_labels(values: Sequence[str]) -> bool:
    counts = Counter(filter(None, values))
    return 1 < len(counts) <= max(2, counts.total() // 3)


def _measures(values: Sequence[str]) -> bool:
    """Whether the values are numbers or dates, nearly all of them different from words."""
    filled = [value for value in values if value]
    matches = sum(bool(_NUMBER_OR_DATE.match(value)) for value in filled)
    return len(filled) >= _MIN_BELOW and matches >= 0.9 * len(filled)
