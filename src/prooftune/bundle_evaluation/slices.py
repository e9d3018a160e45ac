"""Results by the values of a column of the evaluated file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from prooftune.bundle_evaluation.drift import PROPORTIONS, compare_proportions, mover_difference
from prooftune.bundle_evaluation.types import SliceScores
from prooftune.evaluation.score_types import Figure, defined
from prooftune.evaluation.significance import holm
from prooftune.types import Example, Prediction, VariantResult

MAX_SLICES = 20
"""The most frequent values of a column are shown, at most this many; the others are one slice."""
OTHER, EMPTY = "(other values)", "(empty)"

Measure = Callable[[Sequence[Example], VariantResult], Figure]
"""Measures the primary metric of some rows."""


def slice_scores(
    examples: Sequence[Example],
    result: VariantResult,
    values: Sequence[str | None],
    primary: str,
    confidence: float,
    measure: Measure,
) -> list[SliceScores]:
    """The primary metric for each value of a column, and its difference from all other rows.

    Shares of rows are tested by Fisher's exact test, with Holm's correction over the values of the
    column. Other metrics differ significantly if the interval of the difference excludes 0.

    Args:
        examples: the rows.
        result: the bundle's predictions on them.
        values: the column's value of each row; None or "" where it is empty.
        primary: name of the metric.
        confidence: level of the intervals.
        measure: measures the metric.

    Returns:
        The slices, most frequent first.
    """
    # None and "" are a slice, too: missing values may be the problem.
    names = _merge_rare([value or EMPTY for value in values])
    counts = Counter(names)
    figures = {name: measure(*_subset(examples, result, names, name, True)) for name in counts}
    slices: list[SliceScores] = [
        {
            "value": name,
            "n": n,
            "figure": figures[name],
            "difference": None,
            "p": None,
            "significant": False,
        }
        for name, n in counts.most_common()
    ]
    if len(slices) < 2:
        return slices
    for entry in slices:
        # Against the rest and not against all, which would contain the slice itself.
        rest = measure(*_subset(examples, result, names, entry["value"], False))
        _compare(entry, rest, len(examples) - entry["n"], primary, confidence)
    # Holm's correction needs all p-values of the column at once.
    tested = [entry for entry in slices if entry["p"] is not None]
    for entry, p in zip(tested, holm([entry["p"] or 0.0 for entry in tested]), strict=True):
        entry["p"], entry["significant"] = p, p < 1 - confidence
    return slices


def _merge_rare(values: Sequence[str]) -> list[str]:
    """Values beyond the most frequent ones become one."""
    counts = Counter(values)
    if len(counts) <= MAX_SLICES:
        return list(values)
    # One less, as the rest is a slice of its own.
    frequent = {value for value, _ in counts.most_common(MAX_SLICES - 1)}
    return [value if value in frequent else OTHER for value in values]


def _subset(
    examples: Sequence[Example],
    result: VariantResult,
    names: Sequence[str],
    name: str,
    inside: bool,
) -> tuple[list[Example], VariantResult]:
    """The rows of a slice, or all others, with their predictions."""
    rows = [i for i, own in enumerate(names) if (own == name) is inside]
    predictions: list[Prediction] = [result.test[i] for i in rows]
    return [examples[i] for i in rows], VariantResult(
        result.name, result.kind, predictions, [], {}, result.folder
    )


def _compare(
    entry: SliceScores, rest: Figure, rest_n: int, primary: str, confidence: float
) -> None:
    """Add the difference of a slice from the other rows."""
    if entry["figure"]["low"] is None or rest["low"] is None:
        return
    own, others = defined(entry["figure"]), defined(rest)
    if primary in PROPORTIONS:
        hits = round(own["value"] * entry["n"]), round(others["value"] * rest_n)
        tested = compare_proportions(hits[0], entry["n"], hits[1], rest_n, confidence)
        entry["difference"], entry["p"] = tested["difference"], tested["p"]
    else:
        difference = mover_difference(own, others)
        entry["difference"] = difference
        entry["significant"] = difference["low"] > 0 or difference["high"] < 0


def worst_slice(slices: Mapping[str, Sequence[SliceScores]]) -> tuple[str, SliceScores] | None:
    """The column and the slice that is significantly worse than the rest by most; None if none."""
    worse = [
        (column, entry)
        for column, entries in slices.items()
        for entry in entries
        if entry["significant"] and entry["difference"] and entry["difference"]["value"] < 0
    ]
    # The lowest difference is the most negative one.
    return min(
        worse,
        key=lambda pair: pair[1]["difference"]["value"] if pair[1]["difference"] else 0.0,
        default=None,
    )
