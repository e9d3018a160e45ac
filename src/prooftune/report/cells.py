"""Tables as data, so that the page and the summary in Markdown show the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.report.format import MISSING, PERCENT, NumberFormat, count, format_value, interval


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, its interval, and whether it is text and no number."""

    text: str
    interval: str = ""
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of which the first column names its rows.

    Attributes:
        id: unique on the page.
        label: what it shows, in words.
        caption: how it was measured; may be empty.
        headings: of all columns, the first column's included.
        rows: name and cells.
    """

    id: str
    title: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def value_cell(
    found: Mapping[str, Any] | None, form: NumberFormat = PERCENT, value: str = "value"
) -> Cell:
    """A figure with the ends ``low`` and ``high`` of its interval."""
    if not found or found.get(value) is None:
        return Cell(MISSING)
    return Cell(format_value(found[value], form), interval(found, form.scale, form.digits))


def count_cell(value: float | None) -> Cell:
    """A count."""
    return Cell(count(value))


def share_cell(value: int, n: int) -> Cell:
    """A count and its share of n."""
    return Cell(count(value), format_value(value / n) if n else "")
