"""Expected calibration error without its bias, and an interval that contains 0 where the model may
be calibrated.

The usual figure is a mean of absolute differences, which sampling noise alone makes larger than 0:
with 200 examples a perfectly calibrated model is told some 8% (Kumar et al. 2019, arXiv
1909.10155; Roelofs et al. 2022, arXiv 2012.08668). Here the interval comes from turning around a
test: what error would give a figure like this one? Errors are supposed to be distributed over the
bins as they were found, all of them scaled by one factor; at the factor 0 the model is calibrated,
which makes this the consistency resampling of Bröcker and Smith (2007, Weather and Forecasting
22:651).
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from prooftune.evaluation.intervals import Interval, normal_quantile, wilson_interval
from prooftune.evaluation.metrics import BINS, Floats, Ints, Outcomes, bin_of
from prooftune.evaluation.resampling import Groups

# Finer below 1, where the true factor mostly is: noise makes the observed differences too large.
FACTORS = np.concatenate([np.linspace(0, 1, 21), np.linspace(1.1, 3, 20)])
"""Multiples of the differences found that are tried, 0 to 3."""

DRAWS = 500
LOWER_SHARE = 0.8
"""Share of the level at which 0 is excluded. Where the model is calibrated only the lower end can
miss, and the interval then contains 0 with a probability of 96% instead of 97.5%."""
POSITIVE_SHARE = 0.3
"""Share of the level for a lower end above 0. It is smaller, because the errors found in the bins,
which the draws take for the true ones, are themselves too large by noise: at the share of
`LOWER_SHARE` up to 9% of samples of 20 had a lower end above the true error."""


def ece_interval(
    outcomes: Outcomes, confidence: float, seed: int, groups: Groups | None = None
) -> Interval:
    """Median-unbiased expected calibration error (`metrics.BINS` bins of equal width) with its
    interval, 0 to 1.

    Args:
        outcomes: predictions with probabilities, at least one.
        confidence: level of the interval.
        seed: of the draws.
        groups: the groups in which examples come, if any: the spread of the draws grows by the
            design effect that they have on confidence minus hits.
    """
    count, confidence_sum, hits = _bins(outcomes)
    stated, observed = confidence_sum / count, hits / count
    n = float(count.sum())
    seen = float(np.abs(hits - confidence_sum).sum()) / n
    # No accuracy is beyond 0 or 1, so large factors stop there.
    true = np.clip(stated + FACTORS[:, None] * (observed - stated), 0.0, 1.0)
    errors = np.abs(true - stated) @ count / n
    spread = 1.0 if groups is None else _group_spread(outcomes, groups, confidence)
    # `binomial` draws whole hits, so that the figure takes few values: equal ones count on both
    # sides.
    drawn = _draw(count, true, confidence_sum, n, seed, spread)
    # Monotone in truth; the draws make small steps back.
    at_least = np.maximum.accumulate((drawn >= seen - 1e-12).mean(axis=1))
    at_most = np.minimum.accumulate((drawn <= seen + 1e-12).mean(axis=1))
    tail = 1 - confidence
    low = 0.0
    if at_least[0] < LOWER_SHARE * tail:
        # Above 0 by one step of the factors at least, so that the interval excludes 0.
        low = max(float(errors[1]), _crossing(at_least, POSITIVE_SHARE * tail, errors))
    value = _crossing(at_least, 0.5, errors)
    # `_crossing` needs a rising curve, so this falling one is negated.
    high = _crossing(-at_most, -(1 - LOWER_SHARE) * tail, errors)
    # The mean of absolute differences is never less than the difference of the means.
    share = float(hits.sum()) / n
    ends = wilson_interval(round(share * n), int(n), confidence)
    mean = float(confidence_sum.sum()) / n
    overall = min(1.0, max(abs(share + spread * (end - share) - mean) for end in ends))
    return Interval(value, min(low, value), max(high, value, overall))


def _bins(outcomes: Outcomes) -> tuple[Floats, Floats, Floats]:
    """Of every bin that is not empty: examples, summed confidence and hits."""
    sure = outcomes.confidence
    bins = bin_of(sure)
    count, confidence_sum, hits = (
        np.bincount(bins, weights=weights, minlength=BINS).astype(np.float64)
        for weights in (np.ones(len(sure)), sure, outcomes.correct.astype(np.float64))
    )
    filled = count > 0
    # Confidences of 1 may sum to a little more than their count by rounding, which no accuracy
    # could match.
    return count[filled], np.minimum(confidence_sum, count)[filled], hits[filled]


def _group_spread(outcomes: Outcomes, groups: Groups, confidence: float) -> float:
    """How much wider the sampling distribution is than that of single examples: the root of the
    design effect (Kish 1965), at least 1, and more for few groups by Student's t."""
    from scipy.stats import t

    if groups.count < 2:
        return 1.0
    gaps = outcomes.correct - outcomes.confidence
    gaps = gaps - gaps.mean()
    by_group = groups.sums(gaps[:, None])[:, 0]
    # Variance of the sum over groups, with the factor G / (G - 1) for a sample, over that of
    # independent rows.
    effect = groups.count / (groups.count - 1) * float((by_group**2).sum() / (gaps**2).sum())
    few = float(t.ppf((1 + confidence) / 2, groups.count - 1)) / normal_quantile(confidence)
    return few * sqrt(max(1.0, effect))


def _draw(
    count: Floats, true: Floats, confidence_sum: Floats, n: float, seed: int, spread: float
) -> Floats:
    """The usual figure in samples of models with the accuracies `true` [F, bins], [F, DRAWS]."""
    generator = np.random.default_rng([seed, len(count)])
    whole: Ints = count.astype(np.int64)
    shape = (len(true), DRAWS, len(count))
    hits = generator.binomial(whole, true[:, None, :], size=shape)
    expected = (true * count)[:, None, :]
    # Groups widen the distribution of hits around its mean, and do not move the mean.
    spread_hits = expected + spread * (hits - expected)
    return np.asarray(np.abs(spread_hits - confidence_sum).sum(axis=-1) / n)


def _crossing(rising: Floats, level: float, errors: Floats) -> float:
    """The error at which a rising curve [F] reaches a level, interpolated; its ends otherwise."""
    first = int(np.argmax(rising >= level))
    if rising[first] < level:
        return float(errors[-1])
    if first == 0:
        return float(errors[0])
    around = slice(first - 1, first + 1)
    return float(np.interp(level, rising[around], errors[around]))
