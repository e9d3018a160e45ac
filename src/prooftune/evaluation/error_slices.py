"""Slices of the test rows on which a variant is worse than elsewhere, or loses to a rival.

Slices are named by inputs, labels and metadata before any result is looked at, and all tests of a
study are corrected together (Holm), so that without such a slice hardly any is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.intervals import Interval, paired_means_interval, wilson_interval
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.score_types.figures import Estimate
from prooftune.evaluation.score_types.slices import ErrorSlice, RivalDifference, SliceScores
from prooftune.evaluation.significance import holm, mcnemar_p

MIN_ROWS = 20
"""Rows in a slice, and outside of it, that a test needs."""
PERMUTATIONS = 20_000
_FEW_LEVELS = 50
"""Up to so many different values, permutations are drawn as counts of each value."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Slice:
    """Test rows that have something in common: what (``length``, ``label``, a column, ...), its
    value in words, and which rows, bool [n]."""

    attribute: str
    value: str
    rows: Mask


def slice_scores(
    slices: Sequence[Slice],
    quality: Mapping[str, Floats],
    judged: str,
    rivals: Sequence[str],
    confidence: float,
    seed: int,
    groups: Groups | None = None,
) -> SliceScores:
    """Compare every slice with the other rows, and with every rival.

    A slice is *weak* if the judged variant is significantly worse there than on the other rows. It
    is *lost* to a rival if the judged variant is significantly worse than the rival there, and
    their difference is significantly worse than on the other rows: the larger of both p-values
    counts (an intersection-union test, Berger 1982), so that a rival that is better everywhere
    makes no slice.

    Args:
        slices: slices; those with fewer than `MIN_ROWS` rows inside or outside are left out.
        quality: variant -> quality of its output for each row, 0 to 1, [n].
        judged: the variant that is examined.
        rivals: variants that it is compared with.
        confidence: level of the intervals, and one minus the significance level of all tests.
        seed: of the permutations.
        groups: groups of rows, whose rows are not independent.

    Returns:
        Slices, the worst first, with adjusted p-values.
    """
    # Left out before any test, so that they cost no power in the correction.
    usable = [s for s in slices if MIN_ROWS <= s.rows.sum() <= len(s.rows) - MIN_ROWS]
    # One test for rows that have two names, such as a language and its file: the first name.
    usable = list({s.rows.tobytes(): s for s in reversed(usable)}.values())[::-1]
    own, p_values = quality[judged], []
    found: list[ErrorSlice] = []
    for number, entry in enumerate(usable):
        rest = _against_rest(own, entry.rows, seed + number, groups)
        p_values.append(rest)
        against: list[RivalDifference] = []
        for rival in rivals:
            difference = own - quality[rival]
            inside = _paired_p(difference, entry.rows, seed + number, groups)
            elsewhere = _against_rest(difference, entry.rows, seed + number, groups)
            # Both must be significant, so the larger p-value is that of the pair.
            p_values.append(max(inside, elsewhere))
            against.append(
                {
                    "variant": rival,
                    "difference": _estimate(
                        paired_means_interval(difference[entry.rows], confidence)
                    ),
                    "elsewhere": float(difference[~entry.rows].mean()),
                    "p": 1.0,
                    "lost": False,
                }
            )
        low, high = _share_interval(own[entry.rows], confidence)
        found.append(
            {
                "attribute": entry.attribute,
                "value": entry.value,
                "n": int(entry.rows.sum()),
                "figure": {"value": float(own[entry.rows].mean()), "low": low, "high": high},
                "rest": float(own[~entry.rows].mean()),
                "p": 1.0,
                "weak": False,
                "against": against,
            }
        )
    _adjust(found, p_values, 1 - confidence)
    # After the adjustment, which relies on the order of the tests.
    found.sort(key=lambda s: s["figure"]["value"] - s["rest"])
    return {"judged": judged, "rivals": list(rivals), "tests": len(p_values), "slices": found}


def _adjust(found: Sequence[ErrorSlice], p_values: Sequence[float], alpha: float) -> None:
    """Fill in Holm's adjusted p-values, in the order in which the tests were made."""
    adjusted = iter(holm(p_values))
    for entry in found:
        entry["p"] = next(adjusted)
        entry["weak"] = entry["p"] < alpha and entry["figure"]["value"] < entry["rest"]
        for row in entry["against"]:
            row["p"] = next(adjusted)
            # A rival that is better everywhere by as much tells nothing about this slice.
            worse = row["difference"]["value"] < min(0.0, row["elsewhere"])
            row["lost"] = row["p"] < alpha and worse


def _estimate(interval: Interval) -> Estimate:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _share_interval(values: Floats, confidence: float) -> tuple[float, float]:
    # For means of values between 0 and 1, which vary no more than shares do, it is conservative.
    return wilson_interval(round(float(values.sum())), len(values), confidence)


def _against_rest(values: Floats, rows: Mask, seed: int, groups: Groups | None) -> float:
    """Two-sided p-value of the difference of means inside and outside of a slice.

    Exact for shares (Fisher), by permuted membership for other values, by a t-test with variances
    of groups where rows come in groups.
    """
    if groups is not None:
        return _clustered_p(values, rows, groups)
    levels, counts = np.unique(values, return_counts=True)
    # All rows have the same quality: nothing to compare.
    if len(levels) == 1:
        return 1.0
    if len(levels) == 2:
        from scipy.stats import fisher_exact

        inside, outside = values[rows] == levels[1], values[~rows] == levels[1]
        table = [[int(part.sum()), int((~part).sum())] for part in (inside, outside)]
        return float(fisher_exact(table)[1])
    draw = np.random.default_rng([seed, len(values)])
    size, expected = int(rows.sum()), float(values.mean())
    seen = abs(float(values[rows].mean()) - expected)
    if len(levels) <= _FEW_LEVELS:
        # Which rows are in the slice matters only through how many there are of each value.
        drawn = draw.multivariate_hypergeometric(counts, size, PERMUTATIONS)
        means = drawn @ levels / size
    else:
        means = np.array(
            [values[draw.choice(len(values), size, replace=False)].mean() for _ in range(2_000)]
        )
    # The tolerance counts ties that differ by rounding; adding 1 to both keeps the test valid
    # (Phipson and Smyth 2010).
    beyond = int((np.abs(means - expected) >= seen - 1e-12).sum())
    return (beyond + 1) / (len(means) + 1)


def _paired_p(difference: Floats, rows: Mask, seed: int, groups: Groups | None) -> float:
    """Two-sided p-value of the mean paired difference inside a slice."""
    inside = difference[rows]
    if groups is not None:
        return _clustered_p(difference, rows, groups, against_rest=False)
    if set(np.unique(inside)) <= {-1.0, 0.0, 1.0}:
        return mcnemar_p(int((inside > 0).sum()), int((inside < 0).sum()))
    from prooftune.evaluation.significance import permutation_p

    return permutation_p(inside, seed, 2_000)


def _clustered_p(values: Floats, rows: Mask, groups: Groups, *, against_rest: bool = True) -> float:
    """t-test of a difference of means, or of a mean, with the variance summed by groups (Liang and
    Zeger 1986) and one degree of freedom less than there are groups in the slice."""
    from scipy.stats import t

    n, count = int(rows.sum()), len(np.unique(groups.index[rows]))
    inside, outside = float(values[rows].mean()), float(values[~rows].mean())
    # Influence values of the estimate: its variance is the sum of squares of their group sums.
    influence = np.where(rows, (values - inside) / n, 0.0)
    estimate = inside
    if against_rest:
        influence -= np.where(rows, 0.0, (values - outside) / (len(rows) - n))
        estimate = inside - outside
    if count < 2:
        return 1.0
    summed = groups.sums(influence[:, None])[:, 0]
    # The factor corrects the bias of few groups.
    error = float(np.sqrt((summed**2).sum() * count / (count - 1)))
    if error == 0:
        return 1.0
    return float(2 * t.sf(abs(estimate) / error, count - 1))
