"""Variation between trainings of one variant: intervals and tests of a mean over trainings.

A variant that is trained several times with other seeds is a procedure, of which every training is
one draw. A metric of the procedure is the mean over its trainings, and has two sources of error:
the test rows (the same for all trainings) and the trainings (Bouthillier et al. 2021, arXiv
2103.03098). Both are random, and crossed, as readers and cases are in the analysis of diagnostic
tests (Obuchowski and Rockette 1995, Communications in Statistics B 24:285).

The error over rows comes from the same resampling as for one training. The error over trainings is
estimated from 2 to 5 values, which a bootstrap makes too small: resampling both (the
multi-bootstrap of Sellam et al. 2022, arXiv 2106.16163) calls equal procedures different in up to
12% of studies with two trainings. Satterthwaite's degrees of freedom keep the level where both
errors are similar, and not where the test set is large and one variant is fixed. Cochran and Cox
(1957, Experimental Designs, section 4.14) weigh Student's quantiles by the variances that they
belong to, which keeps the level for any ratio of the variances (`benchmarks/coverage.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, sqrt

import numpy as np

from prooftune.evaluation.intervals import Interval, normal_quantile
from prooftune.evaluation.metrics import Floats

# Only an end for the search: reports show no p-value below 0.001 as a number.
_SMALLEST_P = 1e-12


@dataclass(frozen=True, slots=True)
class Component:
    """The part of a mean's variance that comes from trainings.

    Attributes:
        variance: of the mean, estimated from the trainings.
        freedom: degrees of freedom of the estimate.
    """

    variance: float
    freedom: int


def between_trainings(values: Floats) -> list[Component]:
    """The component of the mean of a metric over trainings [T]; none for a single training."""
    count = len(values)
    return [Component(float(np.var(values, ddof=1)) / count, count - 1)] if count > 1 else []


def between_pairs(first: Floats, second: Floats, *, paired: bool) -> list[Component]:
    """The components of the difference of two means over trainings, [T1] and [T2].

    Args:
        first: a metric of every training of the first variant.
        second: of the second variant.
        paired: training k of both has the same weights.
    """
    if paired and len(first) == len(second):
        # Training k is one set of weights in both, so that its luck cancels in the difference.
        return between_trainings(first - second)
    return [*between_trainings(first), *between_trainings(second)]


def spread(values: Floats) -> float:
    """Standard deviation between trainings."""
    return float(np.std(values, ddof=1))


def with_trainings(
    rows: Interval,
    components: Sequence[Component],
    confidence: float,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Widen an interval over test rows by the variation between trainings (Cochran and Cox 1957).

    Args:
        rows: the interval over rows alone, at the same level; its two ends may differ in distance.
        components: from `between_trainings` or `between_pairs`; none: the interval stays.
        confidence: level.
        bounds: range of the figure, where it has one.
    """
    if not components or isnan(rows.value) or isnan(rows.low):
        return rows
    normal, level = normal_quantile(confidence), 1 - confidence
    below, above = (
        # Each side apart: an interval near 0 or 1 is not symmetric, and must stay so.
        _half_width(distance / normal, normal, components, level)
        for distance in (rows.value - rows.low, rows.high - rows.value)
    )
    ends = rows.value - below, rows.value + above
    return Interval(rows.value, *(np.clip(ends, *bounds).tolist() if bounds else ends))


def two_level_p(
    difference: float, row_error: float, units: int, components: Sequence[Component]
) -> float:
    """Two-sided p-value of a difference of means over trainings, by the test that belongs to
    `with_trainings`.

    Args:
        difference: of the means over trainings.
        row_error: its standard error over test rows, or groups of rows.
        units: number of rows, or groups.
        components: variances between trainings.
    """
    from scipy.optimize import brentq
    from scipy.stats import t

    if difference == 0:
        return 1.0

    def excess(log_p: float) -> float:
        level = float(np.exp(log_p))
        quantile = float(t.isf(level / 2, max(units - 1, 1)))
        return _half_width(row_error, quantile, components, level) - abs(difference)

    # Solved for log p: p-values far below 0.05 need the same number of steps.
    smallest = float(np.log(_SMALLEST_P))
    if excess(smallest) <= 0:
        return _SMALLEST_P
    # At p = 1 the half width is 0.
    return float(np.exp(brentq(excess, smallest, 0.0)))


def detectable_by_trainings(
    row_error: float, units: int, components: Sequence[Component], alpha: float, power: float
) -> float:
    """The smallest true difference that `two_level_p` finds at level `alpha` with that power, if
    the variances are as estimated.

    Averages over the distribution of the variances between trainings that a study would estimate.

    Args:
        row_error: standard error over rows.
        units: number of rows, or groups.
        components: variances between trainings.
        alpha: two-sided level of the test.
        power: probability of finding the difference.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, norm, t

    points = (np.arange(200) + 0.5) / 200
    # Estimated variances are chi-squared: 200 equally likely quantiles instead of random draws.
    draws = [c.variance * chi2.ppf(points, c.freedom) / c.freedom for c in components]
    # The estimates of two variants are independent: every pair of their quantiles.
    grid = np.meshgrid(*draws, indexing="ij")
    variance = row_error**2 + sum(grid, np.zeros_like(grid[0]))
    weighted = row_error**2 * t.isf(alpha / 2, max(units - 1, 1)) + sum(
        (g * t.isf(alpha / 2, c.freedom) for g, c in zip(grid, components, strict=True)),
        np.zeros_like(grid[0]),
    )
    # Against 0 / 0 where neither rows nor trainings vary; the error is then 0 as well.
    critical = weighted / np.sqrt(np.maximum(variance, 1e-300))
    error = sqrt(row_error**2 + sum(c.variance for c in components))
    if error == 0:
        return 0.0

    def excess(difference: float) -> float:
        return float(norm.sf((critical - difference) / error).mean()) - power

    return float(brentq(excess, 0.0, float(critical.max()) + 10 * error))


def _half_width(
    row_error: float, row_quantile: float, components: Sequence[Component], level: float
) -> float:
    """Student's quantiles weighted by their variances, times the standard error of both kinds."""
    from scipy.stats import t

    total = row_error**2 + sum(c.variance for c in components)
    if total == 0:
        return 0.0
    weighted = row_error**2 * row_quantile
    weighted += sum(c.variance * float(t.isf(level / 2, c.freedom)) for c in components)
    return weighted / sqrt(total)
