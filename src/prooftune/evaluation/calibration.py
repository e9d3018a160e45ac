"""Are the probabilities true? Temperature scaling, reliability, and answering only when sure
enough."""

from __future__ import annotations

import numpy as np

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.metrics import BINS, LOG_FLOOR, Floats, Outcomes, bin_of, log_losses
from prooftune.evaluation.score_types import ReliabilityBin, RiskCoverage, RiskPoint

TEMPERATURES = (0.05, 20.0)
"""Range searched for the temperature; at its ends the validation set does not determine one."""
LEAST_VALIDATION_ROWS = 50
"""Fewest validation examples that a temperature is fitted on (docs/statistics.md, Temperature)."""


def apply_temperature(log_probs: Floats, temperature: float) -> Floats:
    """Divide log-probabilities [n, L] by the temperature and renormalise them; the order is
    unchanged."""
    scaled = np.maximum(log_probs, LOG_FLOOR) / temperature
    # Against overflow of the exponentials; the shift cancels out in the normalisation.
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def fit_temperature(validation: Outcomes) -> float:
    """The temperature with the least log-loss on validation examples (Guo et al. 2017, arXiv
    1706.04599); 1 where they do not determine one.

    That is so with fewer than `LEAST_VALIDATION_ROWS` examples, and where every prediction is
    right, since the log-loss then falls with the temperature without end. The log-loss is convex in
    1/temperature, so it has a single minimum along the log-temperature too, which a bounded scalar
    search finds.

    Raises:
        ValueError: no examples, or no probabilities.
    """
    from scipy.optimize import minimize_scalar

    log_probs = validation.log_probs
    if log_probs is None or len(validation) == 0:
        raise ValueError("a temperature needs validation examples with probabilities")
    if len(validation) < LEAST_VALIDATION_ROWS or bool(validation.correct.all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(log_probs, float(np.exp(log_temperature)))
        return float(log_losses(validation.with_log_probs(scaled)).mean())

    bounds = (float(np.log(TEMPERATURES[0])), float(np.log(TEMPERATURES[1])))
    # The tolerance is on the log scale: 0.01% of a temperature, far below its sampling error.
    minimum = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    # Where nothing is gained (all probabilities equal, say) the probabilities stay as they are.
    return float(np.exp(minimum.x)) if minimum.fun < loss(0.0) else 1.0


def reliability(outcomes: Outcomes, confidence: float) -> list[ReliabilityBin]:
    """Points of the reliability diagram: accuracy against mean confidence, for each bin that is not
    empty.

    Args:
        outcomes: predictions with probabilities.
        confidence: level of the Wilson interval of each bin's accuracy.
    """
    sure, right = outcomes.confidence, outcomes.correct
    bins = bin_of(sure)
    points: list[ReliabilityBin] = []
    for b in np.unique(bins):
        inside = bins == b
        n, hits = int(inside.sum()), int(right[inside].sum())
        low, high = wilson_interval(hits, n, confidence)
        points.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "n": n,
                "accuracy": hits / n,
                "low": low,
                "high": high,
                "confidence": float(sure[inside].mean()),
            }
        )
    return points


def risk_coverage(outcomes: Outcomes, points: int = 101) -> RiskCoverage:
    """Error among the most confident answers as more of them are given (El-Yaniv & Wiener 2010).

    Examples of equal confidence cannot be told apart, so each counts the mean error of its group.

    Returns:
        ``aurc``: the area under the curve, the mean risk over all coverages (Geifman & El-Yaniv
            2017,
        arXiv 1705.08500); ``points``: at most `points` pairs of coverage and risk.
    """
    sure = outcomes.confidence
    # Negated, so that group 0 is the most confident.
    _, group = np.unique(-sure, return_inverse=True)
    wrong = np.bincount(group, weights=~outcomes.correct) / np.bincount(group)
    answered = np.arange(1, len(outcomes) + 1)
    risk = np.cumsum(wrong[np.sort(group)]) / answered
    # The curve is only drawn: 101 points are enough for a test set of any size.
    shown = np.unique(
        np.linspace(0, len(outcomes) - 1, min(points, len(outcomes))).round().astype(int)
    )
    curve: list[RiskPoint] = [
        {"coverage": float(answered[i] / len(outcomes)), "risk": float(risk[i])} for i in shown
    ]
    return {"aurc": float(risk.mean()), "points": curve}
