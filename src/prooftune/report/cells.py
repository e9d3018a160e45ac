"""Tables as data, rendered by both the HTML page and the Markdown summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prooftune.evaluation.score_types import (
    Bounds,
    Figure,
)
from prooftune.report.format import MISSING, PERCENT, NumberFormat, count, format_value, interval


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table cell, its interval if any, and whether the text is prose or a number."""

    text: str
    interval: str = ""
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        id: HTML id, unique on the page.
        title: accessible name of the table.
        caption: how the values were measured; may be empty.
        headings: of all columns, including the first.
        rows: row name and cells.
    """

    id: str
    title: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def value_cell(figure: Figure | None, form: NumberFormat = PERCENT) -> Cell:
    """A figure with the bounds of its interval; None: a missing value."""
    return bounded_cell(figure["value"], figure, form) if figure else Cell(MISSING)


def bounded_cell(value: float | None, bounds: Bounds, form: NumberFormat = PERCENT) -> Cell:
    """A value with the bounds of its interval, or a missing value."""
    if value is None:
        return Cell(MISSING)
    return Cell(format_value(value, form), interval(bounds, form.scale, form.digits))


def count_cell(value: float | None) -> Cell:
    """A count."""
    return Cell(count(value))


def share_cell(value: int, n: int) -> Cell:
    """A count and its share of n."""
    return Cell(count(value), format_value(value / n) if n else "")
