"""Paired comparisons of variants on the same test examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np

from prooftune.evaluation.comparison_plan import Measured, Plan
from prooftune.evaluation.intervals import (
    Interval,
    paired_means_error,
    paired_means_interval,
    resampling_error,
    resampling_interval,
)
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups, Samples
from prooftune.evaluation.score_types import (
    Comparison,
    Estimate,
    Worthwhile,
    defined,
    metric_difference,
)
from prooftune.evaluation.significance import (
    POWER,
    holm,
    holm_level,
    least_p,
    mcnemar,
    minimum_detectable_difference,
    minimum_detectable_mean,
    swap_test,
)
from prooftune.evaluation.trainings import (
    Component,
    between_pairs,
    detectable_by_trainings,
    two_level_p,
    with_trainings,
)

_BOUNDS: dict[str, tuple[float, float] | None] = {
    "mcc": (-2.0, 2.0),
    "quadratic_kappa": (-2.0, 2.0),
    "mae": None,
    "mean_cost": None,
    # BLEU is on sacreBLEU's scale, 0 to 100; words have no upper end.
    "bleu": (-100.0, 100.0),
    "answer_words": None,
}
"""Range of a difference in a metric, where it is not that of shares."""

_EDGE = 1e-6
"""How far from 0 the interval of a significant difference ends at least."""


def compare(plan: Plan, variants: Mapping[str, Measured]) -> list[Comparison]:
    """Compare pairs of variants, correcting for the number of comparisons made.

    Returns:
        For each pair ``a``, ``b``, ``n``; by metric the difference (``value``, ``low``, ``high``)
        with an interval that holds for all pairs together; ``only_a``, ``only_b``: examples that
        only one has right (means over trainings); ``p``: exact McNemar of accuracy without groups,
        else the swap test, and with several trainings `trainings.two_level_p`;
        ``p_holm``: adjusted over all pairs; ``significant``; ``level``: at which Holm's procedure
        made its last test; ``minimum_detectable_difference`` at that level with power 0.8; where
        examples come in groups, ``by_rows``: p and interval if every example counted alone; with
        a smallest worthwhile difference, ``worthwhile``: better, worse, equivalent or undecided.
        The interval of the primary metric contains 0 exactly where the difference is not
        significant.
    """
    # Differences are keys of a row beside the fixed ones, which no `TypedDict` can say.
    rows: list[Any] = [_compared(plan, a, b, variants[a], variants[b]) for a, b in plan.pairs]
    alpha = 1 - plan.confidence
    adjusted = holm([row["p"] for row in rows])
    # The strictest level that Holm's method reached: power is stated at it.
    level = holm_level(adjusted, alpha)
    for row, p in zip(rows, adjusted, strict=True):
        row |= {"p_holm": p, "significant": p < alpha, "level": level}
        # First of the three: `_worthwhile` reads these ends, and must not say "better" where Holm's
        # test does not.
        row[plan.primary] = consistent(row[plan.primary], row["significant"])
        first, second = variants[row["a"]], variants[row["b"]]
        row["minimum_detectable_difference"] = _detectable(plan, row, first, second, level)
        if plan.worthwhile is not None:
            row["worthwhile"] = _worthwhile(plan, row, first, second, plan.worthwhile)
    return rows


def _compared(plan: Plan, a: str, b: str, first: Measured, second: Measured) -> dict[str, Any]:
    row: dict[str, Any] = {"a": a, "b": b, "n": first.table.shape[1]}
    for name in plan.metrics:
        row[name] = _ends(_difference(plan, name, first, second, plan.simultaneous))
    only_a, only_b = _discordant(first, second)
    row |= {"only_a": only_a, "only_b": only_b, "p": _p(plan, first, second, plan.groups)}
    if plan.groups:
        # Shown as well, so that a reader sees how much the groups widen the interval.
        alone = _without_groups(first), _without_groups(second)
        ends = _difference(plan, plan.primary, *alone, plan.simultaneous, grouped=False)
        row["by_rows"] = {**_ends(ends), "p": _p(plan, first, second, None)}
    return row


def _discordant(first: Measured, second: Measured) -> tuple[int, int]:
    """Examples that only one of two variants has right; means over trainings, or their pairs."""
    if first.correct.shape == second.correct.shape and first.weights == second.weights:
        # Training k of both has the same weights, so examples are compared within each training.
        only_first = (first.correct & ~second.correct).mean(axis=0).sum()
        only_second = (second.correct & ~first.correct).mean(axis=0).sum()
    else:
        # Trainings are independent: the product of two means is the mean over all pairs of
        # trainings.
        right, other = first.correct.mean(axis=0), second.correct.mean(axis=0)
        only_first, only_second = (right * (1 - other)).sum(), (other * (1 - right)).sum()
    return round(float(only_first)), round(float(only_second))


def _components(name: str, first: Measured, second: Measured) -> list[Component]:
    paired = first.weights == second.weights
    return between_pairs(first.by_training[name], second.by_training[name], paired=paired)


def _p(plan: Plan, first: Measured, second: Measured, groups: Groups | None) -> float:
    if components := _components(plan.primary, first, second):
        difference = first.values[plan.primary] - second.values[plan.primary]
        # McNemar and the swap test know one output per example. Several trainings have many, so a
        # standard error over rows takes their place.
        error, units = _row_error(plan.primary, first, second, groups)
        return two_level_p(difference, error, units, components)
    # Right or wrong has an exact test; other metrics need swaps.
    if plan.primary == "accuracy" and groups is None:
        return mcnemar(first.correct[0], second.correct[0]).p

    def metric(summed: Floats) -> Floats:
        return plan.measure(summed)[plan.primary]

    return swap_test(first.table[0], second.table[0], metric, plan.seed, groups=groups)


def _row_error(
    name: str, first: Measured, second: Measured, groups: Groups | None
) -> tuple[float, int]:
    """Standard error over examples, or groups, of a difference of means over trainings, and the
    number of units that it rests on."""
    n = first.table.shape[1]
    if name == "accuracy" and groups is None:
        # Adjusted: the plain error is 0 where the two variants never differ, which no test may rest
        # on.
        return paired_means_error(_mean_difference(first, second))[1], n
    samples = first.samples[name] - second.samples[name]
    if groups is None:
        # `by_rows` is set where the study has groups and this call is about rows alone.
        drawn = samples.bootstrap if samples.by_rows is None else samples.by_rows
        return float(np.nanstd(drawn)), n
    return resampling_error(samples), samples.units


def _mean_difference(first: Measured, second: Measured) -> Floats:
    """Difference in being right on every example, mean over trainings, [n], -1 to 1."""
    return np.asarray(first.correct.mean(axis=0) - second.correct.mean(axis=0))


def _difference(
    plan: Plan, name: str, first: Measured, second: Measured, level: float, grouped: bool = True
) -> Interval:
    rows = _row_difference(plan, name, first, second, level, grouped)
    components = _components(name, first, second)
    return with_trainings(rows, components, level, _BOUNDS.get(name, (-1.0, 1.0)))


def _row_difference(
    plan: Plan, name: str, first: Measured, second: Measured, level: float, grouped: bool
) -> Interval:
    value = first.values[name] - second.values[name]
    rows = paired_means_interval(_mean_difference(first, second), level)
    by_groups = plan.groups is not None and grouped
    if name == "accuracy" and not by_groups:
        return rows
    samples = first.samples[name] - second.samples[name]
    ends = resampling_interval(value, samples, level, _BOUNDS.get(name, (-1.0, 1.0)))
    if name != "accuracy":
        return ends
    # Groups that all agree by chance do not make anything surer than single examples would be.
    return Interval(value, min(ends.low, rows.low), max(ends.high, rows.high))


def _without_groups(variant: Measured) -> Measured:
    n = variant.table.shape[1]
    samples = {
        name: Samples(s.by_rows, None, None, n) if s.by_rows is not None else s
        for name, s in variant.samples.items()
    }
    return replace(variant, samples=samples)


def _ends(interval: Interval) -> Estimate:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def consistent(ends: Estimate, significant: bool) -> Estimate:
    """An interval that does not contradict the test of the same difference.

    Where Holm's procedure finds a difference, the sign of it is known, and the interval stops short
    of 0; where it finds none, 0 is not excluded.
    """
    value, low, high = ends["value"], ends["low"], ends["high"]
    if not significant:
        low, high = min(low, 0.0), max(high, 0.0)
    elif value > 0:
        # A difference smaller than the edge must stay inside its own interval.
        low = max(low, min(_EDGE, value))
    else:
        high = min(high, max(-_EDGE, value))
    return {"value": value, "low": low, "high": high}


def _detectable(
    plan: Plan, row: Comparison, first: Measured, second: Measured, level: float
) -> float:
    """The smallest detectable difference; not-a-number where none, however large, is detectable."""
    n = row["n"]
    if components := _components(plan.primary, first, second):
        error, units = _row_error(plan.primary, first, second, plan.groups)
        return _within_bounds(
            plan.primary, detectable_by_trainings(error, units, components, level, POWER)
        )
    if plan.primary == "accuracy" and plan.groups is None:
        smallest = minimum_detectable_difference(n, (row["only_a"] + row["only_b"]) / n, level)
        return smallest if smallest < 1 else nan
    samples = first.samples[plan.primary] - second.samples[plan.primary]
    # Four groups have 16 patterns of swaps and no p-value below 0.125, whatever the difference.
    if plan.groups is not None and least_p(samples.units) >= level:
        return nan
    smallest = minimum_detectable_mean(resampling_error(samples), samples.units, level)
    differing = _differing_units(plan, first, second)
    if least_p(differing) >= level:
        # Where hardly any outputs differ the bootstrap has next to no spread, and would state that
        # a difference of 0 can be found. Whole outputs must differ often enough for the test.
        whole = minimum_detectable_difference(samples.units, differing / samples.units, level)
        smallest = max(smallest, whole) if whole < 1 else nan
    return _within_bounds(plan.primary, smallest)


def _within_bounds(metric: str, difference: float) -> float:
    """A difference; not-a-number if it is larger than the metric allows."""
    bounds = _BOUNDS.get(metric, (-1.0, 1.0))
    return nan if bounds is not None and difference > bounds[1] else difference


def _differing_units(plan: Plan, first: Measured, second: Measured) -> int:
    """Examples, or groups, that are not the same for both variants, which alone tell them apart."""
    differences = first.table[0] - second.table[0]
    units = plan.groups.sums(differences) if plan.groups else differences
    return int((units != 0).any(axis=1).sum())


def _worthwhile(
    plan: Plan, row: Comparison, first: Measured, second: Measured, worthwhile: float
) -> Worthwhile:
    """Whether a difference is larger than the smallest worthwhile one, or within it by two
    one-sided tests (Schuirmann 1987), each at the level of all comparisons together."""
    ends = defined(metric_difference(row, plan.primary))
    if ends["low"] > worthwhile:
        return "better"
    if ends["high"] < -worthwhile:
        return "worse"
    # Two one-sided tests at level a reject together exactly where the 1 - 2a interval is inside
    # ±margin.
    level = 1 - 2 * (1 - plan.simultaneous)
    inner = _difference(plan, plan.primary, first, second, level)
    return "equivalent" if -worthwhile < inner.low and inner.high < worthwhile else "undecided"
