"""Paired tests, the correction for several of them, and the power that they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.power import Discordance, mcnemar_power
from prooftune.evaluation.resampling import CHUNK_BYTES, Groups

PERMUTATIONS = 10_000
POWER = 0.8
_ENUMERATED = 13
"""With up to this many groups all 2^G patterns of signs are gone through."""


@dataclass(frozen=True, slots=True)
class McNemar:
    """Examples that only the first (`b`) and only the second variant (`c`) has right, and the
    p-value."""

    b: int
    c: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of two variants on the same examples, given whether each was right,
    [n]."""
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(b, c, mcnemar_p(b, c))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided binomial p-value: are the discordant pairs a fair coin? (McNemar 1947)"""
    from scipy.stats import binom

    total = only_a + only_b
    if total == 0:
        return 1.0
    return min(1.0, 2 * float(binom.cdf(min(only_a, only_b), total, 0.5)))


def permutation_p(differences: Floats, seed: int, permutations: int = PERMUTATIONS) -> float:
    """Two-sided p-value of the mean of paired differences [n], by flipping their signs at random
    (Noreen 1989, Computer-Intensive Methods for Testing Hypotheses)."""
    return swap_test(differences[:, None], np.zeros((1, 1)), _first_column, seed, permutations)


def _first_column(summed: Floats) -> Floats:
    return np.asarray(summed[..., 0])


def swap_test(
    first: Floats,
    second: Floats,
    metric: Callable[[Floats], Floats],
    seed: int,
    permutations: int = PERMUTATIONS,
    groups: Groups | None = None,
) -> float:
    """Two-sided p-value of the difference of two variants in a metric, by swapping their outputs
    on random examples (approximate randomization; Noreen 1989, Yeh 2000).

    Of a mean this is the sign-flip test, and of accuracy McNemar's. Where examples come in groups
    the outputs of a whole group are swapped.

    Args:
        first: per-example columns of the first variant, [n, c].
        second: those of the second; [1, c] of zeros to test the columns of the first against 0.
        metric: from summed columns [..., c] to values [...].
        seed: of the swaps.
        permutations: random patterns of swaps; of few groups all patterns are taken.
        groups: the groups of the examples.

    Returns:
        With b of m random patterns at least as far apart as what was seen, (b + 1) / (m + 1), which
        is never 0; of all patterns b / m.
    """
    row_differences = np.asarray(first - second)
    total = first.sum(axis=0) + (np.broadcast_to(second, first.shape)).sum(axis=0)
    units = groups.sums(row_differences) if groups else row_differences
    # Units on which both variants have the same columns change nothing when swapped.
    units = units[(units != 0).any(axis=1)]
    if len(units) == 0:
        return 1.0

    def distance(signs: Floats) -> Floats:
        # The variants' sums are total / 2 ± half the difference; a sign of -1 swaps a unit's
        # outputs.
        half = signs @ units / 2
        return np.asarray(np.abs(metric(total / 2 + half) - metric(total / 2 - half)))

    seen = float(distance(np.ones((1, len(units))))[0])
    # Sums in another order differ in the last digits; equal ones must count.
    threshold = seen - 1e-9 * max(1.0, seen)
    if len(units) <= _ENUMERATED:
        # The bits of the numbers 0 to 2^G - 1 are all patterns of swaps.
        patterns = np.arange(2 ** len(units))[:, None] >> np.arange(len(units)) & 1
        return float(
            (distance(np.asarray(patterns * 2.0 - 1.0, dtype=np.float64)) >= threshold).mean()
        )
    generator = np.random.default_rng([seed, len(units)])
    chunk = max(1, CHUNK_BYTES // (8 * len(units)))
    beyond = 0
    for start in range(0, permutations, chunk):
        size = (min(chunk, permutations - start), len(units))
        signs = generator.integers(0, 2, size=size).astype(np.float64) * 2 - 1
        beyond += int((distance(signs) >= threshold).sum())
    return (beyond + 1) / (permutations + 1)


def least_p(groups: int) -> float:
    """The smallest p-value that swapping this many groups can give."""
    # At best two of the 2^G patterns are as far apart as the data: no swap, and every swap.
    return float(0.5 ** (groups - 1)) if groups <= _ENUMERATED else 1 / (PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold for all tests together (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    # The running maximum keeps adjusted p-values in the order of the raw ones.
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def holm_level(adjusted: Sequence[float], alpha: float) -> float:
    """The level at which Holm's procedure tested the first hypothesis that it did not reject, given
    all adjusted p-values: alpha over the number of those that it did not reject."""
    # Where all are rejected, the last of them was tested at the full alpha.
    return alpha / max(1, sum(p >= alpha for p in adjusted))


def minimum_detectable_difference(
    n: int, discordance: float, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest true difference in accuracy that McNemar's exact test on `n` pairs finds with
    that power.

    The power is computed from the distribution of the number of discordant pairs and, given it, of
    those in favour of one variant. A difference d needs a discordance of at least d, so where the
    share of discordant pairs is smaller, d is taken for it.

    Args:
        n: test examples.
        discordance: share of examples on which exactly one variant is right, 0 to 1.
        alpha: two-sided level at which the test is made.
        power: probability of finding the difference.

    Returns:
        A difference of accuracies, 0 to 1; 1 when the test set is too small to find any.
    """
    from scipy.optimize import brentq

    def excess(difference: float) -> float:
        total = max(discordance, difference)
        shares = Discordance((total + difference) / 2, (total - difference) / 2)
        return mcnemar_power(n, shares, alpha) - power

    # At a difference of 0 the power is at most alpha / 2, so the root is between the two ends.
    return 1.0 if excess(1.0) < 0 else float(brentq(excess, 1e-9, 1.0, xtol=1e-5))


def minimum_detectable_mean(
    error: float, units: int, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with `power`, given the
    standard error of the difference and the number of units that it rests on (t approximation);
    not-a-number for less than two units."""
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if units < 2:
        return float("nan")
    critical = float(t.ppf(1 - alpha / 2, units - 1))

    def excess(shift: float) -> float:
        return float(nct.sf(critical, units - 1, shift)) - power

    # The upper end is far beyond any power that is asked for, also with one degree of freedom.
    return error * float(brentq(excess, 0.0, 2 * critical + 10))


def standard_error(differences: Floats, groups: Groups | None = None) -> tuple[float, int]:
    """Standard error of the mean of paired differences [n], over groups where there are any, and
    the number of units that it rests on."""
    n = len(differences)
    centred = (differences - differences.mean())[:, None]
    units = groups.sums(centred) if groups else centred
    g = len(units)
    return sqrt(g / (g - 1) * float((units**2).sum())) / n if g > 1 else float("nan"), g
