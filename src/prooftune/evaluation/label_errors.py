"""Rows whose label is doubtful, by confident learning, and what they could do to a comparison.

Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70:1373, arXiv 1911.00068) needs label
probabilities of a model that was not trained on the row. It is written here because the library of
its authors, cleanlab, brings pandas; the tests hold it to cleanlab's results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import INVALID, Floats, Ints
from prooftune.evaluation.significance import mcnemar_p

_TOLERANCE = 1e-6


def pooled_probabilities(models: Sequence[Floats]) -> Floats:
    """Mean of the label probabilities of several models, each [n, L] (the linear opinion pool): the
    mistakes of one kind of model are not those of another."""
    return np.asarray(np.mean(models, axis=0))


def confident_labels(targets: Ints, probabilities: Floats) -> Ints:
    """The label that each row confidently has, or -1, as int [n].

    A label is confident if its probability is at least the mean probability of that label among
    the rows that have it; of several, the most probable one.

    Args:
        targets: given labels, int [n].
        probabilities: of every label, out of sample, [n, L].
    """
    labels = probabilities.shape[1]
    thresholds = np.array(
        [
            # A label without rows cannot be anybody's confident label.
            probabilities[targets == label, label].mean() if (targets == label).any() else np.inf
            for label in range(labels)
        ]
    )
    # The tolerance lets a row at its own label's mean count whatever the rounding.
    confident = probabilities >= thresholds - _TOLERANCE
    best = np.where(confident, probabilities, -1.0).argmax(axis=1)
    return np.where(confident.any(axis=1), best, -1)


def likely_errors(targets: Ints, probabilities: Floats) -> NDArray[np.bool_]:
    """Rows whose label is doubtful: the off-diagonal rows of the confident joint whose given
    label is not the most probable one either, bool [n]."""
    confident = confident_labels(targets, probabilities)
    # Rows that are confident of nothing are doubtful, and no evidence of an error.
    off_diagonal = (confident >= 0) & (confident != targets)
    return np.asarray(off_diagonal & (probabilities.argmax(axis=1) != targets))


def label_quality(targets: Ints, probabilities: Floats) -> Floats:
    """Probability of the given label (self-confidence), 0 to 1, [n]. Rows are looked through from
    the lowest."""
    return np.asarray(probabilities[np.arange(len(targets)), targets])


@dataclass(frozen=True, slots=True)
class LabelErrorBounds:
    """A difference in accuracy under other labels of the flagged rows.

    Attributes:
        value: as measured, first minus second, -1 to 1.
        suggested: if every flagged row had its suggested label.
        low, high: lowest and highest difference over all labels that the flagged rows could have.
        p_suggested, p_low, p_high: p-values of the exact McNemar test at these, unadjusted.
        disputed: flagged rows on which the two variants differ, so that the label matters.
    """

    value: float
    suggested: float
    low: float
    high: float
    p_suggested: float
    p_low: float
    p_high: float
    disputed: int


def difference_bounds(
    first: Ints, second: Ints, targets: Ints, suggested: Ints, flagged: NDArray[np.bool_]
) -> LabelErrorBounds:
    """How far the paired difference of two variants moves if flagged labels are wrong.

    Where both variants predict the same label, no true label changes the difference. Where they
    differ, the row counts for the first if the true label is the first's prediction, for the second
    if it is the second's, and for neither otherwise.

    Args:
        first, second: predicted labels, int [n]; `INVALID` is never right.
        targets: given labels, int [n].
        suggested: labels that flagged rows may have instead, int [n].
        flagged: rows whose label is doubtful, bool [n].
    """

    def counts(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[int, int]:
        return int((right & ~other).sum()), int((other & ~right).sum())

    def difference(pair: tuple[int, int]) -> float:
        return (pair[0] - pair[1]) / len(targets)

    measured = counts(first == targets, second == targets)
    corrected = np.where(flagged, suggested, targets)
    as_suggested = counts(first == corrected, second == corrected)
    # Only here does the true label change the difference.
    disputed = flagged & (first != second)
    unaffected = ~flagged
    known = counts(
        (first == targets) & unaffected,
        (second == targets) & unaffected,
    )
    for_first = int((disputed & (first != INVALID)).sum())
    for_second = int((disputed & (second != INVALID)).sum())
    # The extremes give every disputed row to one side.
    highest, lowest = (known[0] + for_first, known[1]), (known[0], known[1] + for_second)
    return LabelErrorBounds(
        difference(measured),
        difference(as_suggested),
        difference(lowest),
        difference(highest),
        mcnemar_p(*as_suggested),
        mcnemar_p(*lowest),
        mcnemar_p(*highest),
        int(disputed.sum()),
    )
