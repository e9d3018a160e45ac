"""What an audit says: findings, and the words that they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prooftune.types import Example

MAX_ROWS_SHOWN = 5
"""Rows named in a message."""
_NAMED = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        code: what it is, in one word for programs.
        severity: error (the study does not run), warning (the reader must know), info.
        message: one sentence: what, how many, where.
        rows: the rows concerned, as ``file:line``; pairs as ``file:line = file:line``.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    message: str
    rows: list[str] = field(default_factory=list)


def row_locations(examples: Iterable[Example]) -> list[str]:
    """Where examples stand, as ``file:line``."""
    return [e.source for e in examples]


def preview(rows: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    return ", ".join(rows[:MAX_ROWS_SHOWN]) + (
        f" and {len(rows) - MAX_ROWS_SHOWN:,} more" if len(rows) > MAX_ROWS_SHOWN else ""
    )


def count_noun(count: int, what: str) -> str:
    """A number with its noun."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def suggest_label_merge(several: Sequence[str], others: Iterable[str] = ()) -> str:
    """How a recipe makes one label of several: the first of them."""
    others = list(others)
    named = {**dict.fromkeys(several, several[0]), **{label: label for label in others[:_NAMED]}}
    rest = ", and every other label as it is" if len(others) > _NAMED else ""
    return f"data.labels: {json.dumps(named, ensure_ascii=False)}{rest}"
