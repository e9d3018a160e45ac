"""Audit findings, and helpers for their messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prooftune.types import Example

MAX_ROWS_SHOWN = 5
"""Maximum number of rows listed in a message."""
_MAX_LABELS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of the data audit.

    Attributes:
        code: machine-readable kind of finding.
        severity: error (the study does not run), warning (affects how to read the results), info.
        message: one sentence: what was found, in how many rows, and where.
        rows: affected rows, as ``file:line``; pairs as ``file:line = file:line``.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    message: str
    rows: list[str] = field(default_factory=list)


def row_locations(examples: Iterable[Example]) -> list[str]:
    """Return the locations of examples, as ``file:line``."""
    return [example.source for example in examples]


def preview(rows: Sequence[str]) -> str:
    """List the first rows, and the number of further ones."""
    return ", ".join(rows[:MAX_ROWS_SHOWN]) + (
        f" and {len(rows) - MAX_ROWS_SHOWN:,} more" if len(rows) > MAX_ROWS_SHOWN else ""
    )


def count_noun(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 row`` or ``1,200 rows``."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def suggest_label_merge(variants: Sequence[str], others: Iterable[str] = ()) -> str:
    """Return the recipe line that maps several spellings of a label to the first one.

    Args:
        variants: spellings of one label.
        others: all other labels, which `data.labels` must list too.
    """
    others = list(others)
    mapping = {
        **dict.fromkeys(variants, variants[0]),
        **{label: label for label in others[:_MAX_LABELS_SHOWN]},
    }
    rest = ", and every other label unchanged" if len(others) > _MAX_LABELS_SHOWN else ""
    return f"data.labels: {json.dumps(mapping, ensure_ascii=False)}{rest}"
