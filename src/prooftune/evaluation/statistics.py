"""Intervals, paired tests and corrections: how sure a figure or a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats, Outcomes, Sums, columns, sums

CHUNK_BYTES = 64_000_000
"""Memory for the resample counts that are held at one time."""


def resample_counts(n: int, resamples: int, seed: int, start: int = 0) -> Floats:
    """How often each of `n` examples is drawn in each bootstrap resample, float [resamples, n].

    Every resample has its own stream, so that it is the same however the work is cut into chunks,
    and the same for all variants: differences between variants are paired.
    """
    counts = np.empty((resamples, n))
    for row in range(resamples):
        stream = np.random.default_rng([seed, start + row])
        counts[row] = np.bincount(stream.integers(0, n, size=n), minlength=n)
    return counts


def resampled(tables: Sequence[Floats], resamples: int, seed: int) -> list[Floats]:
    """Column sums of every resample, the same resamples for all tables (Efron 1979).

    Args:
        tables: per-example columns [n, c], the same examples in the same order; c may differ.
        resamples: R, the number of resamples.
        seed: of the resampling.

    Returns:
        For each table the sums, [R, c].
    """
    if not tables:
        return []
    n, stacked = len(tables[0]), np.concatenate(list(tables), axis=1)
    summed = np.empty((resamples, stacked.shape[1]))
    chunk = max(1, CHUNK_BYTES // (8 * n))
    for start in range(0, resamples, chunk):
        stop = min(start + chunk, resamples)
        summed[start:stop] = resample_counts(n, stop - start, seed, start) @ stacked
    return list(np.split(summed, np.cumsum([table.shape[1] for table in tables])[:-1], axis=1))


def bootstrap(variants: Sequence[Outcomes], resamples: int, seed: int) -> list[Sums]:
    """The sums of every resample [R], for every variant, on the same resamples.

    Args:
        variants: predictions on the same examples in the same order.
        resamples: R, the number of resamples.
        seed: of the resampling.
    """
    drawn = resampled([columns(v) for v in variants], resamples, seed)
    return [sums(part, v.classes) for part, v in zip(drawn, variants, strict=True)]


def percentile_interval(samples: Floats, confidence: float) -> tuple[float, float]:
    """Central interval of bootstrap samples [R] (Efron's percentile method); NaN samples are left
    out.

    Returns:
        (low, high); (nan, nan) when no resample had a value.
    """
    known = samples[~np.isnan(samples)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def shifted_interval(samples: Floats, value: float, confidence: float) -> tuple[float, float]:
    """Percentile interval moved by the bootstrap's estimate of bias, cut at 0.

    For calibration error: an average of absolute values grows with sampling noise, so resamples lie
    above the figure that they came from (Kumar et al. 2019, arXiv 1909.10155), and plain
    percentiles may not even contain it.
    """
    low, high = percentile_interval(samples, confidence)
    bias = float(np.nanmean(samples)) - value
    return max(0.0, min(low - bias, value)), max(high - bias, value)


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927): right also at 0, at 1 and for small n.

    Returns:
        (low, high) as shares; (0, 1) for n = 0.
    """
    from scipy.stats import norm

    if n == 0:
        return 0.0, 1.0
    z2 = float(norm.ppf((1 + confidence) / 2)) ** 2
    share = successes / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # Exact at the ends, where rounding would leave 1e-17.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


def auroc(scores: Floats, positive: NDArray[np.bool_], confidence: float) -> Interval | None:
    """Area under the ROC curve: how often a positive example scores above a negative one (ties
    count half; 0.5 is chance).

    The interval rests on the placements of every example among those of the other kind (DeLong,
    DeLong and Clarke-Pearson 1988), and is taken on the logit scale, so that it stays between 0 and
    1.

    Args:
        scores: higher where an example is more likely positive, [n].
        positive: [n].

    Returns:
        None where examples of one kind are missing. Where the kinds are parted wholly no variance
        can be estimated; the interval is then Wilson's for the smaller kind.
    """
    from scipy.stats import norm, rankdata

    one, other = scores[positive], scores[~positive]
    m, n = len(one), len(other)
    if not m or not n:
        return None
    together = rankdata(np.concatenate([one, other]))
    above = (
        together[:m] - rankdata(one)
    ) / n  # for each positive: the share of the negatives below it
    below = 1 - (together[m:] - rankdata(other)) / m
    area = float(above.mean())
    variance = (above.var(ddof=1) / m if m > 1 else 0.0) + (below.var(ddof=1) / n if n > 1 else 0.0)
    if area in (0.0, 1.0) or not variance:
        low, high = wilson_interval(round(area * min(m, n)), min(m, n), confidence)
        return Interval(area, min(low, area), max(high, area))
    half = float(norm.ppf((1 + confidence) / 2)) * sqrt(variance) / (area * (1 - area))
    low, high = (1 / (1 + np.exp(-(np.log(area / (1 - area)) + side * half))) for side in (-1, 1))
    return Interval(area, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """Examples that only the first (`b`) and only the second variant (`c`) has right, and the
    p-value."""

    b: int
    c: int
    p: float


def paired_difference(
    first: NDArray[np.bool_] | Floats,
    second: NDArray[np.bool_] | Floats,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Difference of two means, first minus second, with its paired bootstrap interval.

    Args:
        first: how well each example was answered (of a label, whether rightly), [n].
        second: the same examples in the same order, [n].
        seed: of the resampling.
        resamples: bootstrap resamples.
        confidence: level of the interval.
    """
    differences = first.astype(np.float64) - second
    n = len(differences)
    chunk = max(1, CHUNK_BYTES // (8 * n))
    samples = [
        resample_counts(n, min(chunk, resamples - start), seed, start) @ differences / n
        for start in range(0, resamples, chunk)
    ]
    low, high = percentile_interval(np.concatenate(samples), confidence)
    return Interval(float(differences.mean()), low, high)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of two variants on the same examples, given whether each was right, [n]."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(b, c, mcnemar_p(b, c))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided binomial p-value: are the discordant pairs a fair coin? (McNemar 1947)"""
    from scipy.stats import binom

    total = only_a + only_b
    if total == 0:
        return 1.0
    return min(1.0, 2 * float(binom.cdf(min(only_a, only_b), total, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold for all tests together (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def minimum_detectable_difference(
    n: int, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference in accuracy that McNemar's test on `n` pairs finds with that
    power.

    Connor (1987, Biometrics 43:207) gives the pairs needed to find a difference d when a share psi
    of pairs is discordant: n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2, with z_a the normal
    quantile of 1 - alpha/2 and z_b that of the power. Solved for d this is a quadratic. A
    difference d needs a discordance of at least d, so where the solution exceeds psi, psi = d is
    solved for instead: with that few discordant pairs nothing smaller would have been found.

    Args:
        n: test examples.
        discordance: share of examples on which exactly one variant is right, 0 to 1.
        alpha: two-sided level of one test (before any correction for several).
        power: probability of finding the difference.

    Returns:
        A difference of accuracies, 0 to 1; 1 when the test set is too small to find any.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    za, zb = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))
    # The quadratic's discriminant, z_a^2 n - (n + z_b^2)(z_a^2 - z_b^2), simplified.
    root = zb * sqrt(max(0.0, n - za**2 + zb**2))
    difference = sqrt(discordance) * (sqrt(n) * za + root) / (n + zb**2)
    if 0 < difference <= discordance:
        return difference

    def missing(d: float) -> float:
        return za * sqrt(d) + zb * sqrt(d - d * d) - d * sqrt(n)

    if n <= za**2:
        return 1.0
    # At z_a^2 / n the first and last term cancel, so the function changes its sign between there
    # and 1.
    return float(brentq(missing, za**2 / n, 1.0))


def permutation_p(differences: Floats, seed: int, permutations: int = 10_000) -> float:
    """Two-sided p-value of the mean of paired differences [n], by flipping their signs at random
    (Noreen 1989, Computer-intensive Methods for Testing Hypotheses).

    With b of m random sign patterns at least as far from 0 as what was seen, (b + 1) / (m + 1),
    which is never 0.
    """
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0
    seen = abs(float(moved.sum()))
    generator = np.random.default_rng([seed, len(moved)])
    chunk = max(1, CHUNK_BYTES // (8 * len(moved)))
    beyond = 0
    for start in range(0, permutations, chunk):
        signs = (
            generator.integers(0, 2, size=(min(chunk, permutations - start), len(moved))) * 2.0
            - 1.0
        )
        # Sums in another order differ in the last digit; equal ones must count.
        beyond += int((np.abs(signs @ moved) >= seen - 1e-9 * max(1.0, seen)).sum())
    return (beyond + 1) / (permutations + 1)


def minimum_detectable_mean(differences: Floats, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean of paired differences [n] that a two-sided test at `alpha` would find
    with `power`, given their spread (normal approximation)."""
    from scipy.stats import norm

    if len(differences) < 2:
        return float("nan")
    error = float(differences.std(ddof=1)) / sqrt(len(differences))
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * error
