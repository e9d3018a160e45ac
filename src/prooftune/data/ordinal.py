"""Labels that are values on a scale."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import pairwise

from prooftune.errors import UsageError, nearest
from prooftune.recipe.data import Data

RATING_LABELS = range(3, 12)
"""Numbers of labels that a rating scale usually has."""


def ordinal_scale(data: Data, labels: Collection[str]) -> dict[str, float]:
    """Value of each label, in ascending order; empty where labels are names.

    Numbers have their own value; labels in a list that are not all numbers, and bins, have the
    values 0, 1, 2 ...

    Args:
        data: ``ordinal``, ``labels`` and ``bins`` of the recipe.
        labels: the labels that occur.

    Raises:
        UsageError: a label that occurs has no value, or two have the same.
    """
    if not data.ordinal:
        return {}
    if data.ordinal is True:
        scale = _named_values(data) or _numbers(labels)
        if not scale:
            shown = json.dumps(sorted(labels)[:8], ensure_ascii=False)
            raise UsageError(
                f"data.ordinal: true needs labels that are numbers, found {shown}. List them from "
                "the lowest to the highest: data.ordinal: [LOWEST, …, HIGHEST]"
            )
    else:
        scale = _numbers(data.ordinal) or {name: float(i) for i, name in enumerate(data.ordinal)}
    for label in labels:
        if label not in scale:
            raise UsageError(
                f"data.ordinal: no place on the scale for the label '{label}'"
                f"{nearest(label, scale)}; the scale is {', '.join(scale)}"
            )
    values = [scale[label] for label in labels]
    if len(set(values)) < len(values):
        raise UsageError(
            f"data.ordinal: two labels have the same value: {', '.join(sorted(labels)[:8])}. Name "
            "one label for both in data.labels"
        )
    return dict(sorted(((n, v) for n, v in scale.items() if n in labels), key=lambda nv: nv[1]))


def _named_values(data: Data) -> dict[str, float]:
    """Values of labels that the recipe names: raw numbers, or bins by their place."""
    if data.bins:
        return {name: float(i) for i, name in enumerate(data.bins)}
    scale: dict[str, float] = {}
    for raw, name in (data.labels or {}).items():
        for value in _numbers([raw]).values():
            scale.setdefault(name, value)
    return scale


def _numbers(texts: Collection[str]) -> dict[str, float]:
    """Each text as a number; empty if any is none."""
    try:
        return {text: float(text) for text in texts}
    except ValueError:
        return {}


def looks_like_ratings(labels: Sequence[str]) -> bool:
    """Whether labels are a few numbers at equal distances, such as 1 to 5 or 0, 0.5, 1 ..."""
    values = sorted(_numbers(labels).values())
    if len(values) not in RATING_LABELS:
        return False
    steps = {round(b - a, 9) for a, b in pairwise(values)}
    return len(steps) == 1 and steps <= {0.25, 0.5, 1.0}
