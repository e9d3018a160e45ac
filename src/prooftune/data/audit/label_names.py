"""Audit check of the label names, which a language model reads as words."""

from __future__ import annotations

import json

from prooftune.data.audit.findings import Finding
from prooftune.data.ordinal import looks_like_ratings
from prooftune.recipe import Recipe
from prooftune.types import Study


def numeric_labels(study: Study, recipe: Recipe) -> list[Finding]:
    """Warn about labels that are numbers, which tell a language model nothing.

    This includes intended scores, such as 1 to 5 stars: ``data.labels`` can keep or name them.
    """
    if not recipe.uses_language_model or not all(map(_is_number, study.labels)):
        return []
    names = json.dumps({label: f"NAME OF {label}" for label in study.labels[:6]})
    shown = ", ".join(study.labels[:6]) + (" …" if len(study.labels) > 6 else "")
    return [
        Finding(
            "numeric-labels",
            "warning",
            f"the labels are numbers ({shown}), whose meaning a language model cannot know. Name "
            f"them: data.labels: {names}",
        )
    ]


def unordered_ratings(study: Study, recipe: Recipe) -> list[Finding]:
    """Warn about labels that look like ratings and are treated as names."""
    placeholders = {f"label {raw}": raw for raw in recipe.data.labels or {}}
    raw = [placeholders.get(label, label) for label in study.labels]
    if recipe.data.ordinal or not looks_like_ratings(raw):
        return []
    raw.sort(key=float)
    return [
        Finding(
            "unordered-ratings",
            "warning",
            f"the labels {', '.join(raw)} are treated as names: taking {raw[0]} for {raw[-1]} "
            f"counts as much as taking {raw[0]} for {raw[1]}. If they are ratings: data.ordinal: "
            "true, which adds quadratic weighted kappa and mean absolute error",
        )
    ]


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
