"""Confidence intervals. docs/statistics.md shows how often each contains the true value."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import CHUNK_BYTES, Samples, resample_counts

# Brown et al. take 2 for n up to 50 and 3 above; 3 everywhere can only be wider.
FEW = 3
"""Up to this many successes, or failures, `wilson_interval` takes a Poisson bound."""

UNIT, SIGNED = (0.0, 1.0), (-1.0, 1.0)
"""Ranges of metrics: of shares, and of correlations and of differences of shares."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927) as Brown, Cai and DasGupta (2001, Statistical
    Science 16:101, section 4.1.1) modify it: with up to `FEW` successes the lower end is a Poisson
    bound, likewise the upper end with few failures. Unmodified it contains a proportion of 0.99 in
    only 91% of samples of 50.

    Returns:
        (low, high) as shares; (0, 1) for n = 0.
    """
    from scipy.stats import chi2

    if n == 0:
        return 0.0, 1.0
    share = successes / n
    middle, half = _score(share, n, normal_quantile(confidence))
    # Exact at the ends, where rounding would leave 1e-17.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    if 0 < successes <= FEW:
        # The whole level in one tail: near 0 or 1 an interval misses the share on one side only.
        low = min(low, float(chi2.ppf(1 - confidence, 2 * successes)) / 2 / n)
    if 0 < n - successes <= FEW:
        high = max(high, 1 - float(chi2.ppf(1 - confidence, 2 * (n - successes))) / 2 / n)
    return low, high


def f1_interval(hits: int, union: int, confidence: float) -> tuple[float, float]:
    """Interval of one label's F1. It grows with the Jaccard index J, F1 = 2 J / (1 + J), and that
    is a proportion: of the examples that have the label or are given it, those that are both.

    Args:
        hits: examples that have the label and are given it.
        union: examples that have the label or are given it, or both.
        confidence: level.
    """
    low, high = wilson_interval(hits, union, confidence)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def _score(share: float, n: float, z: float) -> tuple[float, float]:
    """Middle and half width of Wilson's interval."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle, half


def normal_quantile(confidence: float) -> float:
    """z of a two-sided interval: 1.96 for 0.95."""
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))


def paired_proportions_interval(
    only_first: int, only_second: int, n: int, confidence: float
) -> Interval:
    """Difference of two proportions on the same examples, first minus second, by the adjusted Wald
    interval of Bonett and Price (2012, J. Educational and Behavioral Statistics 37:479), which
    Fagerland, Lydersen and Laake (2014, Statistics in Medicine 33:2850) recommend.

    Args:
        only_first: examples that only the first has right.
        only_second: examples that only the second has right.
        n: all examples, at least one.
        confidence: level.
    """
    # One pseudo-example in favour of each variant (Laplace): no interval of zero width without
    # discordant pairs.
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    middle = first - second
    half = normal_quantile(confidence) * sqrt((first + second - middle**2) / (n + 2))
    return Interval(
        (only_first - only_second) / n, max(-1.0, middle - half), min(1.0, middle + half)
    )


def paired_means_error(differences: Floats) -> tuple[float, float]:
    """Mean and standard error of paired differences [n] between -1 and 1, as Bonett and Price
    (2012) adjust them: with one more example in favour of each variant. For differences of right
    and wrong answers this is `paired_proportions_interval`."""
    n = len(differences) + 2  # with the two pseudo-examples
    middle = float(differences.sum()) / n
    return middle, sqrt(((float((differences**2).sum()) + 2) / n - middle**2) / n)


def paired_means_interval(differences: Floats, confidence: float) -> Interval:
    """Interval of the mean of paired differences [n] between -1 and 1, such as those of accuracies
    that are means over several trainings."""
    middle, error = paired_means_error(differences)
    half = normal_quantile(confidence) * error
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Interval(float(differences.mean()), low, high)


def percentile_interval(
    samples: Floats, confidence: float, units: int | None = None
) -> tuple[float, float]:
    """Central interval of resampled values [R]; not-a-number samples are left out.

    Args:
        samples: a metric of every resample.
        confidence: level.
        units: resampled examples or groups. With few, percentiles are too narrow, and those of a
            wider level are taken, which gives the mean of a normal sample its t interval
            (Hesterberg 2015, The American Statistician 69:371, "expanded percentile interval").

    Returns:
        (low, high); (nan, nan) when no resample had a value.
    """
    known = samples[~np.isnan(samples)]
    if len(known) == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    if units is not None and units > 1:
        tail = _expanded(tail, units)
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _expanded(tail: float, units: int) -> float:
    from scipy.stats import norm, t

    # The root of n / (n - 1): the bootstrap's standard error has the divisor n.
    return float(norm.cdf(sqrt(units / (units - 1)) * t.ppf(tail, units - 1)))


def resampling_interval(
    value: float, samples: Samples, confidence: float, bounds: tuple[float, float] | None = None
) -> Interval:
    """Interval of any function of column sums: the widest of up to three.

    The percentile interval of the bootstrap alone is too narrow, or has no width, where mistakes
    are few or a label is rare. That of the posterior knows what the data do not show, but its
    prior moves it. The jackknife with Student's t is for few groups, of which a bootstrap draws too
    few different samples (Cameron and Miller 2015, J. Human Resources 50:317).

    Args:
        value: the metric on the examples themselves.
        samples: the metric on resamples.
        confidence: level.
        bounds: range of the metric, where it has one.
    """
    ends = [percentile_interval(samples.bootstrap, confidence, samples.units)]
    if samples.posterior is not None:
        ends.append(percentile_interval(samples.posterior, confidence, samples.units))
    if samples.jackknife is not None:
        half = _jackknife_half_width(samples.jackknife, confidence)
        ends.append((value - half, value + half))
    known = [end for end in ends if not np.isnan(end[0])]
    if np.isnan(value) or not known:
        return Interval(value, float("nan"), float("nan"))
    # The prior can pull the posterior's interval past the figure, which must lie in its own
    # interval.
    low = min(value, *(low for low, _ in known))
    high = max(value, *(high for _, high in known))
    return Interval(value, *(np.clip([low, high], *bounds).tolist() if bounds else (low, high)))


def resampling_error(samples: Samples) -> float:
    """Standard error of a figure from its resamples: of the jackknife over groups where there is
    one, else of the bootstrap."""
    if samples.jackknife is None:
        return float(np.nanstd(samples.bootstrap))
    known = samples.jackknife[~np.isnan(samples.jackknife)]
    # The error of `_jackknife_half_width`: `std` has the divisor g, so the factor is the root of g
    # - 1.
    return float(np.sqrt(max(len(known) - 1, 1)) * known.std())


def _jackknife_half_width(without: Floats, confidence: float) -> float:
    """Half width of the t interval from a metric without each group in turn, [G]."""
    from scipy.stats import t

    known = without[~np.isnan(without)]
    g = len(known)
    if g < 2:
        return float("nan")
    # Leave-one-out values vary little: the factor g - 1 turns their spread into a standard error.
    error = sqrt((g - 1) / g * float(((known - known.mean()) ** 2).sum()))
    return float(t.ppf((1 + confidence) / 2, g - 1)) * error


def paired_difference(
    first: NDArray[np.bool_] | Floats,
    second: NDArray[np.bool_] | Floats,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Difference of two means, first minus second: of right and wrong answers by
    `paired_proportions_interval`, of other scores by the paired bootstrap.

    Args:
        first: how well each example was answered (of a label, whether rightly), [n].
        second: the same examples in the same order, [n].
        seed: of the resampling.
        resamples: bootstrap resamples.
        confidence: level of the interval.
    """
    differences = first.astype(np.float64) - second
    n = len(differences)
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        counts = int((differences > 0).sum()), int((differences < 0).sum())
        return paired_proportions_interval(*counts, n, confidence)
    # A weight is a float of 8 bytes.
    chunk = max(1, CHUNK_BYTES // (8 * n))
    samples = [
        resample_counts(n, min(chunk, resamples - start), seed, start) @ differences / n
        for start in range(0, resamples, chunk)
    ]
    low, high = percentile_interval(np.concatenate(samples), confidence, n)
    return Interval(float(differences.mean()), low, high)


def auroc(scores: Floats, positive: NDArray[np.bool_], confidence: float) -> Interval | None:
    """Area under the ROC curve: how often a positive example scores above a negative one (ties
    count half; 0.5 is chance).

    The interval is Newcombe's method 5 (2006, Statistics in Medicine 25:559): a score interval, so
    that it has a width and stays between 0 and 1 also where the kinds are parted wholly.

    Args:
        scores: higher where an example is more likely positive, [n].
        positive: [n].

    Returns:
        None where examples of one kind are missing.
    """
    from scipy.optimize import brentq
    from scipy.stats import rankdata

    positives, negatives = scores[positive], scores[~positive]
    m, n = len(positives), len(negatives)
    if not m or not n:
        return None
    # The Mann-Whitney U statistic: ranks among all examples less ranks among the positive ones.
    area = float(
        (rankdata(np.concatenate([positives, negatives]))[:m] - rankdata(positives)).mean() / n
    )
    # Method 5 puts (m + n) / 2 - 1 for both m - 1 and n - 1 in the variance of Hanley and McNeil
    # (1982).
    z, half = normal_quantile(confidence), (m + n) / 2 - 1

    def variance(true: float) -> float:
        spread = half * ((1 - true) / (2 - true) + true / (1 + true))
        return true * (1 - true) * (1 + spread) / (m * n)

    def excess(true: float) -> float:
        return (area - true) ** 2 - z * z * variance(true)

    # The true area 0 or 1 has no variance, so that the equation holds there for any data.
    low = 0.0 if area == 0 else float(brentq(excess, 0.0, min(area, 1 - 1e-9)))
    high = 1.0 if area == 1 else float(brentq(excess, max(area, 1e-9), 1.0))
    return Interval(area, low, high)
