"""Sample size and power of McNemar's exact test: how many test rows a claim needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from prooftune.errors import UsageError

MAX_ROWS = 1_000_000
"""Rows beyond which a plan says that the difference is too small to test."""


@dataclass(frozen=True, slots=True)
class Discordance:
    """Shares of test rows on which exactly one of two classifiers is right.

    Attributes:
        better: only the better one is right, 0 to 1.
        worse: only the worse one is right, 0 to 1.
    """

    better: float
    worse: float

    @property
    def total(self) -> float:
        return self.better + self.worse


def discordance(accuracy: float, difference: float, agreement: float = 0.0) -> Discordance:
    """Disagreement of two classifiers, given how far their errors overlap.

    Args:
        accuracy: of the worse classifier, 0 to 1.
        difference: how much more accurate the better one is, 0 to 1.
        agreement: 0 if errors are independent, 1 if the better classifier is right wherever the
            worse one is. Real classifiers trained for the same task lie between the two.

    Raises:
        UsageError: the accuracies leave 0 to 1, or the agreement does.
    """
    better = accuracy + difference
    if not 0 < accuracy < 1 or difference <= 0 or better > 1:
        raise UsageError(
            f"accuracies must lie between 0 and 1, and the difference above 0: {accuracy:.3g} and "
            f"{accuracy:.3g} + {difference:.3g} = {better:.3g}"
        )
    if not 0 <= agreement <= 1:
        raise UsageError(f"agreement must lie between 0 and 1, found {agreement:.3g}")
    # Independent errors: one is right with `accuracy`, while the other is wrong with 1 - better.
    worse_alone = (1 - agreement) * accuracy * (1 - better)
    return Discordance(worse_alone + difference, worse_alone)


def shared_errors(accuracy: float, agreement: float) -> float:
    """Share of the better classifier's errors that the worse one makes, too, 0 to 1.

    Args:
        accuracy: of the worse classifier, 0 to 1.
        agreement: as in `discordance`, in which the worse classifier alone is right on
            (1 - agreement) · accuracy of the better one's errors.
    """
    return 1 - (1 - agreement) * accuracy


def mcnemar_power(rows: int, shares: Discordance, alpha: float = 0.05) -> float:
    """Probability that McNemar's exact two-sided test favours the better classifier.

    Sums over the number D of discordant rows, binomial(rows, total share), and over the critical
    region of the binomial(D, 1/2) test.

    Args:
        rows: number of test rows.
        shares: disagreement of the two classifiers.
        alpha: two-sided level of the test.
    """
    from scipy.stats import binom

    if rows < 1:
        return 0.0
    # Beyond these numbers of discordant rows the probability is negligible.
    low, high = binom.ppf([1e-12, 1 - 1e-12], rows, shares.total).astype(int)
    discordant = np.arange(max(low, 1), high + 1)
    # The test rejects for the better classifier if at most `limit` rows favour the worse one.
    limit = binom.ppf(alpha / 2, discordant, 0.5)
    # ppf gives the first value at or above the tail; the critical region must not exceed it.
    limit -= binom.cdf(limit, discordant, 0.5) > alpha / 2
    rejected = binom.cdf(limit, discordant, shares.worse / shares.total)
    return float((binom.pmf(discordant, rows, shares.total) * rejected).sum())


def required_rows(shares: Discordance, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Smallest number of test rows from which on the test reaches the power.

    The exact power rises in a saw-tooth, so the search starts at the normal approximation (Connor
    1987, Biometrics 43:207) and returns the first number that is also sufficient with 1 to 2% more
    rows.

    Returns:
        None where more than a million rows are needed.
    """
    from scipy.stats import norm

    margin = shares.better - shares.worse
    z_alpha, z_power = norm.ppf(1 - alpha / 2), norm.ppf(power)
    normal = (z_alpha * sqrt(shares.total) + z_power * sqrt(shares.total - margin**2)) ** 2
    guess = ceil(normal / margin**2)
    if guess > MAX_ROWS:
        return None
    # The exact number may be below the approximation, so the search starts 20% lower.
    rows = max(2, int(0.8 * guess))
    # Steps of 0.5% first, since each costs a sum over all critical regions.
    step = max(1, guess // 200)
    while not _sufficient(rows, step, shares, alpha, power):
        rows += step
    while step > 1:  # refine within the last step
        step //= 2
        while rows > step and _sufficient(rows - step, step, shares, alpha, power):
            rows -= step
    return rows


def _sufficient(rows: int, step: int, shares: Discordance, alpha: float, power: float) -> bool:
    # One tooth of the saw may reach the power, and the next rows lose it again.
    return all(
        mcnemar_power(n, shares, alpha) >= power for n in (rows, rows + step, rows + 2 * step)
    )


def detectable_difference(
    rows: int, accuracy: float, agreement: float = 0.0, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Smallest true difference that the test finds with the power on this many rows, 0 to 1.

    Returns:
        None where not even a perfect second classifier would be found better.
    """
    low, high = 0.0, 1 - accuracy
    if mcnemar_power(rows, discordance(accuracy, high, agreement), alpha) < power:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = mcnemar_power(rows, discordance(accuracy, middle, agreement), alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
