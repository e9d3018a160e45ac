"""The probability from which a label is predicted, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.multilabel.metrics import Bools, columns, label_matrix, rates
from prooftune.types import Example, Prediction
from prooftune.utils.label_sets import DEFAULT_THRESHOLD, chosen_labels, parse_label_set

CANDIDATES = tuple(round(0.02 * i, 2) for i in range(1, 50))
"""Thresholds that are compared: 0.02 to 0.98."""


@dataclass(frozen=True, slots=True)
class LabelSets:
    """The label sets of one training on test and validation rows, at its threshold.

    Attributes:
        threshold: chosen on validation rows; None without probabilities or validation rows, where
            outputs are those of the variant itself.
        test, validation: predicted label matrices, [n, L].
        outputs: predictions on test rows, with the output at the threshold.
        quality: the primary metric on validation rows; None without them.
    """

    threshold: float | None
    test: Bools
    validation: Bools
    outputs: list[Prediction]
    quality: float | None


def choose_threshold(log_probs: Floats, targets: Bools, primary: str) -> float:
    """The threshold with the best metric; of equals the one nearest to the default.

    One threshold for all labels: one for each would be fitted to the few rows that a rare label
    has among validation rows (Yang 2001, SIGIR, on overfitted SCut).

    Args:
        log_probs: of every label by itself, [n, L].
        targets: label matrix, [n, L].
        primary: name of the metric.
    """
    # Probabilities of labels are independent: they do not sum to 1.
    probabilities = np.exp(log_probs)
    quality = {
        t: float(rates(columns(targets, probabilities >= t).sum(axis=0))[primary])
        for t in CANDIDATES
    }
    # Of equally good thresholds the one nearest to the default.
    return max(quality, key=lambda t: (quality[t], -abs(t - DEFAULT_THRESHOLD)))


def label_sets(
    labels: Sequence[str],
    validation: Sequence[Example],
    test_predictions: Sequence[Prediction],
    validation_predictions: Sequence[Prediction],
    primary: str,
) -> LabelSets:
    """Choose the threshold on validation rows, and apply it to both splits."""
    targets = label_matrix((e.targets for e in validation), labels)
    has_probabilities = bool(validation_predictions) and all(
        p.log_probs for p in (*validation_predictions, *test_predictions)
    )
    threshold = None
    outputs, held_out = list(test_predictions), list(validation_predictions)
    if has_probabilities:
        log_probs = np.array([p.log_probs for p in held_out])
        # One threshold for all labels: rare labels have too few validation rows for their own.
        threshold = choose_threshold(log_probs, targets, primary)
        outputs, held_out = (
            [replace(p, output=chosen_labels(p.log_probs, labels, threshold)) for p in part]
            for part in (outputs, held_out)
        )
    predicted = label_matrix((parse_label_set(p.output) for p in held_out), labels)
    quality = None
    if held_out:
        quality = float(rates(columns(targets, predicted).sum(axis=0))[primary])
    return LabelSets(
        threshold,
        label_matrix((parse_label_set(p.output) for p in outputs), labels),
        predicted,
        outputs,
        quality,
    )
