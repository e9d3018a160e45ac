"""Audit findings, and helpers for their messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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


def suggest_label_merge(
    groups: Iterable[Sequence[str]],
    others: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> str:
    """Return the recipe line that maps all spellings of each label to the first one.

    Args:
        groups: spellings of one label each.
        others: all other labels, which `data.labels` must list too.
        names: the recipe's `data.labels`, whose keys the line then has; None where it has none.
    """
    merged = {label: group[0] for group in groups for label in group}
    others = list(others)
    if names:
        mapping = {raw: merged.get(name, name) for raw, name in names.items()}
        return f"data.labels: {json.dumps(mapping, ensure_ascii=False)}"
    mapping = merged | {label: label for label in others[:_MAX_LABELS_SHOWN]}
    rest = ", and every other label unchanged" if len(others) > _MAX_LABELS_SHOWN else ""
    return f"data.labels: {json.dumps(mapping, ensure_ascii=False)}{rest}"
