"""What is wrong with labels as words that a language model reads."""

from __future__ import annotations

import json

from prooftune.data.audit.findings import Finding
from prooftune.recipe import Recipe
from prooftune.types import Study


def numeric_labels(study: Study, recipe: Recipe) -> list[Finding]:
    """A warning where a language model would have to choose among numbers.

    Scores that are labels on purpose (1 to 5 stars) are warned of, too: ``data.labels`` may keep
    them, or name them.
    """
    if not recipe.uses_language_model or not all(map(_is_number, study.labels)):
        return []
    names = json.dumps({label: f"NAME OF {label}" for label in study.labels[:6]})
    shown = ", ".join(study.labels[:6]) + (" …" if len(study.labels) > 6 else "")
    return [
        Finding(
            "numeric-labels",
            "warning",
            f"the labels are numbers, so the model is asked for one of: {shown}. It knows what "
            f"words mean: name them with data.labels: {names}",
        )
    ]


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
