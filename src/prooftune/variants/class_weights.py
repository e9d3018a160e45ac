"""Weights of training rows by label, for rare labels that must count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prooftune.recipe.variants import ClassWeights
from prooftune.types import Example


def label_weights(setting: ClassWeights | None, train: Sequence[Example]) -> dict[str, float]:
    """Weight of each label in the training loss; empty where all rows count alike.

    Balanced weights are n / (L · n_label), as in scikit-learn (King and Zeng 2001, Political
    Analysis 9:137). Weights are scaled to a mean of 1 over the training rows: the loss is their
    weighted sum divided by the number of rows, so that its scale does not depend on the weights.

    Args:
        setting: ``class_weights`` of the recipe.
        train: the training rows; labels without any have no weight.
    """
    if not setting:
        return {}
    counts = Counter(str(example.target) for example in train)
    if setting == "balanced":
        raw = {label: 1.0 / count for label, count in counts.items()}
    else:
        raw = {label: setting.get(label, 1.0) for label in counts}
    mean = sum(raw[label] * count for label, count in counts.items()) / counts.total()
    return {label: weight / mean for label, weight in sorted(raw.items())}


def row_weights(weights: dict[str, float], examples: Sequence[Example]) -> list[float] | None:
    """Weight of each row, [n]; None without weights.

    A label that no training row has counts 1: it can only occur in validation.
    """
    if not weights:
        return None
    return [weights.get(str(example.target), 1.0) for example in examples]


def describe_weights(setting: ClassWeights | None) -> str:
    """A part of a variant's description; empty without weights."""
    if not setting:
        return ""
    if setting == "balanced":
        return ", balanced class weights"
    shown = ", ".join(f"{label} {weight:g}" for label, weight in setting.items())
    return f", class weights {shown}"
