"""Classification metrics, for one set of predictions or for thousands of bootstrap resamples at
once.

Every metric here is a function of a few sums over examples (`Sums`): hits, targets and predictions
per label, summed log-loss and Brier score, per confidence bin the count, confidence and hits, for
ordinal labels the summed absolute and squared errors, and the summed cost of errors that have one.
Summing is linear, so the sums of all resamples are one matrix product of resample counts [R, n]
with per-example columns [n, columns], and a metric computed from sums of shape [R, ...] is the
metric of every resample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INVALID = -1
"""The predicted index of an output outside the label set: wrong, and counted apart
(`invalid_rate`)."""

BINS = 15
"""Equal-width confidence bins of the expected calibration error (Guo et al. 2017, arXiv
1706.04599)."""

LOG_FLOOR = float(np.log(np.finfo(np.float64).eps))
"""Log-probabilities are floored here (about -36), as in scikit-learn, so that one -inf is not the
mean."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The targets and predictions of one variant as arrays.

    Attributes:
        targets: label indices, int [n].
        predicted: label indices, `INVALID` where the output was no label, int [n].
        log_probs: natural-log probabilities of the labels, float [n, L], or None.
        classes: L, the number of labels.
        scale: value of each label, [L], where labels are ordinal; None: they are names.
        costs: cost of predicting each label (column) where another is true (row), [L, L]; None:
            errors have no costs.
    """

    targets: Ints
    predicted: Ints
    log_probs: Floats | None
    classes: int
    scale: Floats | None = None
    costs: Floats | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is the target, bool [n]; invalid outputs are wrong."""
        return np.asarray(self.predicted == self.targets)

    @property
    def confidence(self) -> Floats:
        """Probability given to the predicted label (the largest where the output was invalid), [n].

        Raises:
            ValueError: the variant gives no probabilities.
        """
        if self.log_probs is None:
            raise ValueError("no probabilities, so no confidence")
        # `INVALID` is -1, which NumPy would read as the last label.
        label = np.where(self.predicted == INVALID, self.log_probs.argmax(axis=1), self.predicted)
        return np.exp(np.take_along_axis(self.log_probs, label[:, None], axis=1)[:, 0])

    def at(self, rows: NDArray[np.bool_]) -> Outcomes:
        """The outcomes of some examples; `rows` says of each whether it is among them, [n]."""
        log_probs = None if self.log_probs is None else self.log_probs[rows]
        return replace(
            self, targets=self.targets[rows], predicted=self.predicted[rows], log_probs=log_probs
        )

    def with_log_probs(self, log_probs: Floats | None) -> Outcomes:
        return replace(self, log_probs=log_probs)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sufficient statistics of all metrics; leading axes (...) are resamples.

    Attributes:
        hits, targets, predicted: examples per label that are right, have that target, are given
            that label, [..., L].
        n: number of examples, [...].
        log_loss, brier: summed over examples, [...]; None without probabilities.
        bin_n, bin_confidence, bin_hits: per confidence bin, [..., BINS]; None without
            probabilities.
        scale: value of each label, [L]; None where labels are not ordinal.
        absolute_error, squared_error: summed over examples in units of `scale`, [...].
        cost: summed over examples, [...]; None where errors have no costs.
        highest_cost: of a single example.
    """

    hits: Floats
    targets: Floats
    predicted: Floats
    n: Floats
    log_loss: Floats | None = None
    brier: Floats | None = None
    bin_n: Floats | None = None
    bin_confidence: Floats | None = None
    bin_hits: Floats | None = None
    scale: Floats | None = None
    absolute_error: Floats | None = None
    squared_error: Floats | None = None
    cost: Floats | None = None
    highest_cost: float = 0.0


def columns(outcomes: Outcomes) -> Floats:
    """Per-example columns whose sums are `Sums`: 1 + 3L, 2 more for ordinal labels, 1 more for
    costs, and 2 + 3·BINS more for probabilities, float [n, columns]."""
    labels = np.arange(outcomes.classes)
    is_target = outcomes.targets[:, None] == labels
    is_predicted = outcomes.predicted[:, None] == labels
    parts = [np.ones((len(outcomes), 1)), is_target & is_predicted, is_target, is_predicted]
    if outcomes.scale is not None:
        errors = ordinal_errors(outcomes.scale)[outcomes.targets, outcomes.predicted]
        parts += [errors[:, None], errors[:, None] ** 2]
    if outcomes.costs is not None:
        costs = with_invalid(outcomes.costs)[outcomes.targets, outcomes.predicted]
        parts += [costs[:, None]]
    if outcomes.log_probs is not None:
        confidence = outcomes.confidence
        in_bin = bin_of(confidence)[:, None] == np.arange(BINS)
        parts += [
            log_losses(outcomes)[:, None],
            brier_scores(outcomes)[:, None],
            in_bin,
            in_bin * confidence[:, None],
            in_bin & outcomes.correct[:, None],
        ]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)


def sums(
    summed: Floats, classes: int, scale: Floats | None = None, costs: Floats | None = None
) -> Sums:
    """Name the parts of summed `columns` [..., columns]; `scale` and `costs` are those of the
    outcomes."""
    # The order is that of `columns`; the two change together.
    n, rest = summed[..., 0], summed[..., 1:]
    hits, targets, predicted = (rest[..., i * classes : (i + 1) * classes] for i in range(3))
    rest = rest[..., 3 * classes :]
    total = Sums(hits, targets, predicted, n)
    if scale is not None:
        total = replace(total, scale=scale, absolute_error=rest[..., 0], squared_error=rest[..., 1])
        rest = rest[..., 2:]
    if costs is not None:
        total = replace(total, cost=rest[..., 0], highest_cost=float(costs.max()))
        rest = rest[..., 1:]
    if rest.shape[-1] == 0:
        return total
    bins = [rest[..., 2 + i * BINS : 2 + (i + 1) * BINS] for i in range(3)]
    return replace(
        total,
        log_loss=rest[..., 0],
        brier=rest[..., 1],
        bin_n=bins[0],
        bin_confidence=bins[1],
        bin_hits=bins[2],
    )


def ordinal_errors(scale: Floats) -> Floats:
    """Distance of each target from each prediction, [L, L + 1], with that of invalid outputs."""
    return with_invalid(np.abs(scale[:, None] - scale))


def with_invalid(errors: Floats) -> Floats:
    """Errors of each prediction (column) for each target (row), with a last column, which `INVALID`
    indexes, of invalid outputs: they are as wrong as a label can be. [L, L + 1]."""
    return np.concatenate([errors, errors.max(axis=1, keepdims=True)], axis=1)


def log_losses(outcomes: Outcomes) -> Floats:
    """Negative log-probability of each target in nats, [n]."""
    of_target = np.take_along_axis(_log_probs(outcomes), outcomes.targets[:, None], axis=1)[:, 0]
    return -np.maximum(of_target, LOG_FLOOR)


def brier_scores(outcomes: Outcomes) -> Floats:
    """Squared distance of the probabilities from the one-hot target, 0 to 2, [n] (Brier 1950)."""
    onehot = outcomes.targets[:, None] == np.arange(outcomes.classes)
    return np.asarray(((np.exp(_log_probs(outcomes)) - onehot) ** 2).sum(axis=1))


def _log_probs(outcomes: Outcomes) -> Floats:
    if outcomes.log_probs is None:
        raise ValueError("this variant gives no probabilities")
    return outcomes.log_probs


def bin_of(confidence: Floats) -> Ints:
    """Index of the bin ((i)/BINS, (i+1)/BINS] that holds each confidence, int [n]."""
    # Bins are open at the left, so that `ceil` fits and only a confidence of 0 needs the clip.
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def rates(total: Sums) -> dict[str, Floats]:
    """All scalar metrics by name, each of the sums' leading shape.

    Definitions are scikit-learn's: a label's precision, recall or F1 without a denominator counts
    0; macro averages run over the labels that occur among targets or predictions; balanced accuracy
    is the mean recall of the labels that occur among targets. Invalid outputs form one more
    predicted class for MCC (Gorodkin 2004) and are wrong for everything else. ``log_loss`` in nats,
    ``brier`` 0 to 2.
    """
    each = per_class(total)
    precision, recall, f1 = (np.nan_to_num(each[name]) for name in ("precision", "recall", "f1"))
    occurs = (total.targets + total.predicted) > 0
    share = total.targets / total.n[..., None]
    result = {
        "accuracy": total.hits.sum(-1) / total.n,
        "balanced_accuracy": _mean(recall, total.targets > 0),
        "macro_precision": _mean(precision, occurs),
        "macro_recall": _mean(recall, occurs),
        "macro_f1": _mean(f1, occurs),
        "weighted_precision": (precision * share).sum(-1),
        "weighted_recall": (recall * share).sum(-1),
        "weighted_f1": (f1 * share).sum(-1),
        "mcc": _mcc(total),
        # Invalid outputs are in no label's column, so they are what the sum lacks.
        "invalid_rate": 1 - total.predicted.sum(-1) / total.n,
    }
    if total.log_loss is not None and total.brier is not None:
        result |= {
            "log_loss": total.log_loss / total.n,
            "brier": total.brier / total.n,
            "ece": _ece(total),
        }
    return result | _ordinal_rates(total) | _cost_rates(total)


def _ordinal_rates(total: Sums) -> dict[str, Floats]:
    """Quadratic weighted kappa (Cohen 1968, Psychological Bulletin 70:213) and mean absolute error;
    nothing where labels are not ordinal.

    Weights are squared distances on the labels' scale. Kappa without any expected disagreement is
    0. ``mae_score`` is 1 - MAE / range of the scale, 0 to 1, which grows with quality.
    """
    if total.scale is None or total.absolute_error is None or total.squared_error is None:
        return {}
    weights = ordinal_errors(total.scale) ** 2
    invalid = (total.n - total.predicted.sum(-1))[..., None]
    predicted = np.concatenate([total.predicted, invalid], axis=-1)
    expected = ((total.targets @ weights) * predicted).sum(-1) / total.n
    ratio = np.divide(total.squared_error, expected, out=np.ones_like(expected), where=expected > 0)
    mae = total.absolute_error / total.n
    return {
        "quadratic_kappa": np.asarray(1 - ratio),
        "mae": mae,
        "mae_score": np.asarray(1 - mae / np.ptp(total.scale)),
    }


def _cost_rates(total: Sums) -> dict[str, Floats]:
    """Mean cost of a prediction; nothing where errors have no costs.

    ``cost_score`` is 1 - mean cost / highest cost, 0 to 1, which grows with quality.
    """
    if total.cost is None:
        return {}
    mean_cost = total.cost / total.n
    return {"mean_cost": mean_cost, "cost_score": np.asarray(1 - mean_cost / total.highest_cost)}


def per_class(total: Sums) -> dict[str, Floats]:
    """Precision, recall and F1 of every label, [..., L]; not-a-number where there is no
    denominator."""
    return {
        "precision": _divide(total.hits, total.predicted),
        "recall": _divide(total.hits, total.targets),
        "f1": _divide(2 * total.hits, total.predicted + total.targets),
    }


def confusion(outcomes: Outcomes) -> Ints:
    """Counts [L targets, L predictions], with an extra column if there are invalid outputs."""
    width = outcomes.classes + 1
    predicted = np.where(outcomes.predicted == INVALID, outcomes.classes, outcomes.predicted)
    # One bincount of combined indices instead of a loop over examples.
    flat = np.bincount(outcomes.targets * width + predicted, minlength=outcomes.classes * width)
    table = flat.reshape(outcomes.classes, width).astype(np.int64)
    return table if table[:, -1].any() else table[:, :-1]


def measure(outcomes: Outcomes) -> tuple[dict[str, float], dict[str, Floats]]:
    """The metrics of one variant: scalars by name, and per-class arrays [L] by name."""
    total = sums(columns(outcomes).sum(axis=0), outcomes.classes, outcomes.scale, outcomes.costs)
    return {name: float(value) for name, value in rates(total).items()}, per_class(total)


def _divide(a: Floats, b: Floats) -> Floats:
    # `where` leaves the NaN of `out` alone, without NumPy's warning about 0 / 0.
    return np.asarray(np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0))


def _mean(values: Floats, where: NDArray[np.bool_]) -> Floats:
    return np.asarray((values * where).sum(-1) / np.maximum(where.sum(-1), 1))


def _mcc(total: Sums) -> Floats:
    n = total.n
    predicted = np.concatenate([total.predicted, (n - total.predicted.sum(-1))[..., None]], axis=-1)
    # Gorodkin's multi-class formula in counts, each term multiplied by n².
    covariance = total.hits.sum(-1) * n - (total.predicted * total.targets).sum(-1)
    spread = (n**2 - (predicted**2).sum(-1)) * (n**2 - (total.targets**2).sum(-1))
    # A constant prediction or a single target class has no spread: the correlation is 0 by
    # convention.
    return np.asarray(
        np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)
    )


def _ece(total: Sums) -> Floats:
    if total.bin_hits is None or total.bin_confidence is None:
        raise ValueError("this variant gives no probabilities")
    return np.asarray(np.abs(total.bin_hits - total.bin_confidence).sum(-1) / total.n)
