"""The probability from which a label is predicted, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.multilabel.metrics import Bools, columns, label_matrix, rates
from prooftune.recipe import Evaluation
from prooftune.types import Prediction, Study, VariantResult
from prooftune.utils.label_sets import DEFAULT_THRESHOLD, chosen_labels, parse_label_set

PRIMARY = "micro_f1"
"""Metric by which variants are judged where the recipe names none."""
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


def label_sets(study: Study, training: VariantResult, settings: Evaluation) -> LabelSets:
    """Choose a training's threshold on validation rows, and apply it to both splits.

    Args:
        study: the examples and the label set.
        training: predictions of one training, in the order of the study's examples.
        settings: ``primary`` is the metric by which the threshold is chosen.
    """
    primary = settings.primary or PRIMARY
    # A variant without validation predictions has no threshold, whatever the study's rows.
    targets = label_matrix((e.targets for e in study.validation), study.labels)
    threshold = None
    if has_threshold(training.test, training.validation):
        log_probs = np.array([p.log_probs for p in training.validation])
        threshold = choose_threshold(log_probs, targets, primary)
    outputs, held_out = (
        at_threshold(part, study.labels, threshold) for part in (training.test, training.validation)
    )
    predicted = label_matrix((parse_label_set(p.output) for p in held_out), study.labels)
    quality = None
    if held_out:
        quality = float(rates(columns(targets, predicted).sum(axis=0))[primary])
    return LabelSets(
        threshold,
        label_matrix((parse_label_set(p.output) for p in outputs), study.labels),
        predicted,
        outputs,
        quality,
    )


def has_threshold(test: Sequence[Prediction], validation: Sequence[Prediction]) -> bool:
    """Whether a threshold can be chosen: there are validation rows, and every prediction has
    probabilities."""
    return bool(validation) and all(p.log_probs for p in (*validation, *test))


def at_threshold(
    predictions: Sequence[Prediction], labels: Sequence[str], threshold: float | None
) -> list[Prediction]:
    """Predictions with the label sets at a threshold; with their own where it is None."""
    if threshold is None:
        return list(predictions)
    return [replace(p, output=chosen_labels(p.log_probs, labels, threshold)) for p in predictions]
