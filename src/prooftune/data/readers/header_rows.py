"""Tables whose header takes several rows: survey exports, merged cells, units below the names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

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
_MAX_ABOVE = 20
"""Lines in which a header is looked for."""

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


def find_header(
    lines: Iterable[str], wanted: Collection[Collection[str]], delimiters: Sequence[str]
) -> tuple[str, int] | None:
    """The separator and the line of a header, by the names that it must hold.

    Args:
        lines: of the file; the first ones are read.
        wanted: for each column that is needed, the names that it may have.
        delimiters: separators, the usual one first.

    Returns:
        The separator, and the number of lines above the header; None if no line has all names.
    """
    first = [line.strip("\ufeff\r\n") for line in islice(lines, _MAX_ABOVE)]
    for number, line in enumerate(first):
        for delimiter in dict.fromkeys(delimiters):
            names = [strip_invisible(cell).strip('"') for cell in _cells(line, delimiter)]
            if all(not set(names).isdisjoint(group) for group in wanted) and (
                not number or _begins_table(names, first[number + 1 :], delimiter)
            ):
                return delimiter, number
    return None


def _begins_table(names: Sequence[str], below: Sequence[str], delimiter: str) -> bool:
    """Whether cells that are no first line name columns: several short ones, as many as the next
    row has. Words of a text may be names, too."""
    following = next((line for line in below if line.strip()), "")
    return (
        len(names) > 1
        and max(map(len, names)) <= 2 * _LONG
        and len(names) == len(_cells(following, delimiter))
    )


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a quote that is closed in a later line
        return line.split(delimiter)
