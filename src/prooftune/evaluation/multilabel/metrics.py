"""Metrics of predicted label sets, for one set of predictions or for all resamples at once.

As in `evaluation.metrics`, every metric is a function of column sums over examples, so that the
bootstrap and the swap test resample rows and not labels: the labels of a text depend on one
another, and the text is the unit that was drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import pseudo_examples

Bools = NDArray[np.bool_]


def label_matrix(sets: Iterable[Iterable[str]], labels: Sequence[str]) -> Bools:
    """Whether each label is in each set, [sets, labels]; names that are no labels are ignored."""
    index = {label: i for i, label in enumerate(labels)}
    rows = list(sets)
    matrix = np.zeros((len(rows), len(labels)), dtype=np.bool_)
    for i, row in enumerate(rows):
        for label in row:
            # A label that only training rows lack cannot be predicted, and is counted by the audit.
            if label in index:
                matrix[i, index[label]] = True
    return matrix


def columns(targets: Bools, predicted: Bools) -> Floats:
    """Per-example columns, [n, 3 + 3L]: 1, whether the sets are equal, their F1, and for every
    label hit, target and prediction.

    Args:
        targets, predicted: label matrices, [n, L].
    """
    hits = targets & predicted
    total = targets.sum(axis=1) + predicted.sum(axis=1)
    # Two empty sets agree.
    f1 = np.where(total > 0, 2 * hits.sum(axis=1) / np.maximum(total, 1), 1.0)
    equal = (targets == predicted).all(axis=1)
    parts = [np.ones(len(targets)), equal, f1]
    return np.concatenate(
        [np.stack(parts, axis=1), hits.astype(float), targets, predicted], axis=1, dtype=np.float64
    )


def rates(summed: Floats) -> dict[str, Floats]:
    """All scalar metrics by name from summed columns [..., 3 + 3L], each [...].

    Definitions are scikit-learn's for label indicators. Precision, recall or F1 without a
    denominator counts 0, but two empty sets have the example-based F1 1 (``zero_division=1``).
    Macro averages run over the labels that occur among targets or predictions. ``hamming_loss`` is
    the share of wrong decisions among all texts and labels.
    """
    n = summed[..., 0]
    hits, targets, predicted = _by_label(summed)
    each = {name: np.nan_to_num(values) for name, values in by_label(summed).items()}
    # A label that is neither given nor predicted has no F1, and the mean leaves it out.
    occurs = (targets + predicted) > 0
    all_hits, all_targets, all_predicted = hits.sum(-1), targets.sum(-1), predicted.sum(-1)
    # Labels in one of the two sets only.
    wrong = all_targets + all_predicted - 2 * all_hits
    return {
        "micro_f1": _ratio(2 * all_hits, all_targets + all_predicted),
        "micro_precision": _ratio(all_hits, all_predicted),
        "micro_recall": _ratio(all_hits, all_targets),
        "macro_f1": _mean(each["f1"], occurs),
        "macro_precision": _mean(each["precision"], occurs),
        "macro_recall": _mean(each["recall"], occurs),
        "samples_f1": summed[..., 2] / n,
        "subset_accuracy": summed[..., 1] / n,
        "hamming_loss": wrong / (n * hits.shape[-1]),
        "labels_per_text": all_predicted / n,
    }


def by_label(summed: Floats) -> dict[str, Floats]:
    """Precision, recall and F1 of every label, [..., L]; not-a-number without a denominator."""
    hits, targets, predicted = _by_label(summed)
    return {
        "precision": _divide(hits, predicted),
        "recall": _divide(hits, targets),
        "f1": _divide(2 * hits, targets + predicted),
    }


def measure(targets: Bools, predicted: Bools) -> dict[str, float]:
    """The metrics of label matrices [n, L] by name; see `rates`."""
    summed = columns(targets, predicted).sum(axis=0)
    return {name: float(value) for name, value in rates(summed).items()}


def set_prior(labels: int, resamples: int, seed: int, variant: int) -> Floats:
    """Sums of pseudo-examples for `resampling.resample`, [R, 3 + 3L]: for every label, texts with
    this label alone. A wrong one is half a miss and half a false alarm.

    Args:
        labels: L.
        resamples, seed, variant: as of `resampling.pseudo_examples`.
    """
    right, wrong = pseudo_examples(labels, resamples, seed, variant)
    correct = right.sum(axis=1, keepdims=True)
    n = correct + wrong.sum(axis=1, keepdims=True)
    # A wrong pseudo-example is half a label too many and half a label too few.
    marked = right + wrong / 2
    return np.concatenate([n, correct, correct, right, marked, marked], axis=1)


def _by_label(summed: Floats) -> tuple[Floats, Floats, Floats]:
    """Hits, targets and predictions per label, [..., L] each."""
    hits, targets, predicted = np.split(summed[..., 3:], 3, axis=-1)
    return hits, targets, predicted


def _divide(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(np.shape(b), np.nan), where=b > 0))


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.nan_to_num(_divide(np.asarray(a), np.asarray(b)))


def _mean(values: Floats, where: Bools) -> Floats:
    return np.asarray((values * where).sum(-1) / np.maximum(where.sum(-1), 1))
