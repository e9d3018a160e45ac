"""Costs of predicting one label where another is true, and the decision that they call for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def error_cost_matrix(
    costs: Mapping[str, Mapping[str, float]] | None, labels: Sequence[str]
) -> Floats:
    """Cost of predicting each label (column) where another is true (row), [labels, labels].

    Args:
        costs: true label -> predicted label -> cost. Errors that are not named cost 1, and right
            labels 0.
        labels: the label set.

    Raises:
        KeyError: a label is not in the label set.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    matrix = 1.0 - np.eye(len(labels))
    for true, row in (costs or {}).items():
        for predicted, cost in row.items():
            matrix[numbers[true], numbers[predicted]] = cost
    return matrix


def least_cost(probabilities: Floats, costs: Floats) -> NDArray[np.int64]:
    """Index of the label of least expected cost (Bayes decision), [rows]; the first of equals.

    Args:
        probabilities: of the labels, [rows, labels].
        costs: as of `error_cost_matrix`.
    """
    return np.asarray((probabilities @ costs).argmin(axis=1))
