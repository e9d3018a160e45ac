"""Paired comparisons of variants on the same test examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from prooftune.evaluation.metrics import Outcomes, Sums, measure, rates
from prooftune.evaluation.statistics import (
    holm,
    mcnemar,
    minimum_detectable_difference,
    percentile_interval,
)


def pairs(kinds: Mapping[str, str]) -> list[tuple[str, str]]:
    """The pairs of variants that a study compares, decided by their kinds and not by their results.

    Every tuned variant with every other variant; every other variant except the majority class with
    the (first) zero-shot one. Without a tuned variant every pair is compared, so that the best one
    can be told from the next.

    Args:
        kinds: variant name -> kind, in the recipe's order.
    """
    tuned = [name for name, kind in kinds.items() if kind == "tuned"]
    rest = [name for name in kinds if name not in tuned]
    if not tuned:
        return list(combinations(rest, 2))
    chosen = [*combinations(tuned, 2), *((t, r) for t in tuned for r in rest)]
    zero_shot = next((name for name in rest if kinds[name] == "zero-shot"), None)
    if zero_shot is not None:
        chosen += [
            (name, zero_shot) for name in rest if name != zero_shot and kinds[name] != "majority"
        ]
    return chosen


def compare(
    chosen: Sequence[tuple[str, str]],
    tests: Mapping[str, Outcomes],
    drawn: Mapping[str, Sums],
    confidence: float,
) -> list[dict[str, Any]]:
    """Compare pairs of variants, correcting for the number of comparisons made.

    Args:
        chosen: pairs (a, b); differences are a minus b.
        tests: predictions on the same examples, by variant name.
        drawn: the variants' sums [R] on the same resamples (`statistics.bootstrap`).
        confidence: level of the intervals; 1 - confidence is the level of significance.

    Returns:
        For each pair ``a``, ``b``, ``n``; ``accuracy`` and ``macro_f1``: the difference with its
        paired bootstrap interval; ``only_a``, ``only_b``: discordant examples; ``p``: exact
        McNemar; ``p_holm``: adjusted over all pairs given; ``significant``;
        ``minimum_detectable_difference`` at power 0.8 for one test at that level, given this pair's
        discordance.
    """
    values = {name: measure(outcomes)[0] for name, outcomes in tests.items()}
    samples = {name: rates(total) for name, total in drawn.items()}
    rows: list[dict[str, Any]] = []
    for a, b in chosen:
        n = len(tests[a])
        test = mcnemar(tests[a].correct, tests[b].correct)
        row: dict[str, Any] = {"a": a, "b": b, "n": n}
        for name in ("accuracy", "macro_f1"):
            low, high = percentile_interval(samples[a][name] - samples[b][name], confidence)
            row[name] = {"value": values[a][name] - values[b][name], "low": low, "high": high}
        row |= {
            "only_a": test.b,
            "only_b": test.c,
            "p": test.p,
            "minimum_detectable_difference": minimum_detectable_difference(
                n, (test.b + test.c) / n, alpha=1 - confidence
            ),
        }
        rows.append(row)
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
        row["significant"] = adjusted < 1 - confidence
    return rows
