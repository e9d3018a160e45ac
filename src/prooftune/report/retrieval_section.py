"""The sections on retrieval and citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.score_types import Scores
from prooftune.report import task_display
from prooftune.report.cells import Cell, Table, count_cell, value_cell
from prooftune.report.format import count, percent

_CITATIONS = {
    "citation_precision": "precision",
    "citation_recall": "recall",
    "unsupported_rate": "unsupported",
    "unknown_citation_rate": "unknown rate",
}
_WITH_PASSAGES = ("retrieved", "gold", "random")


def retrieval_table(scores: Scores) -> Table | None:
    """Retrieval metrics of each variant; None where no gold passages are known."""
    by_variant = {
        name: retrieval
        for name, v in task_display.ranked_variants(scores)
        if (retrieval := v.get("retrieval"))
    }
    keys = _metric_keys(by_variant)
    if not keys:
        return None
    left_out = max(f.get("without_gold") or 0 for f in by_variant.values())
    return Table(
        "retrieval-table",
        "Retrieval",
        f"{percent(scores['confidence'], 0)} intervals, seed {scores['seed']}, over test "
        "questions with known gold passages"
        + (f"; {count(left_out)} others are excluded." if left_out else "."),
        ["variant", "questions", *keys],
        [
            (name, [count_cell(f.get("n")), *(value_cell(f.get(key)) for key in keys)])
            for name, f in by_variant.items()
        ],
    )


def citations_table(scores: Scores) -> Table | None:
    """How often answers cite passages, and how well; None where no variant was given passages."""
    variants = {
        name: v
        for name, v in task_display.ranked_variants(scores)
        # Also variants that were given no passages and cite something all the same.
        if v.get("context") in _WITH_PASSAGES
        or v.get("cited")
        or v.get("unknown_citations")
        or v.get("citations")
    }
    if not variants:
        return None
    cited: dict[str, Mapping[str, Any]] = {
        name: v.get("citations") or {} for name, v in variants.items()
    }
    keys = [key for key in _CITATIONS if key in _metric_keys(cited)]
    rules = dict.fromkeys(
        rule for t in cited.values() for rule in (t.get("signatures") or {}).values()
    )
    return Table(
        "citations-table",
        "Citations",
        f"{percent(scores['confidence'], 0)} intervals (Wilson for shares of all "
        f"{count(scores['n'])} answers)." + (f" Support: {', '.join(rules)}." if rules else ""),
        [
            "variant",
            "answers with a source",
            "unknown citations",
            *(_CITATIONS[key] for key in keys),
        ],
        [
            (
                name,
                [
                    _share(v["cited"], v["n"], scores["confidence"]),
                    count_cell(v["unknown_citations"]),
                    *(value_cell(cited[name].get(key)) for key in keys),
                ],
            )
            for name, v in variants.items()
        ],
    )


def _metric_keys(by_variant: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys of all metrics, which have a value and an interval, in order."""
    return list(
        dict.fromkeys(
            key
            for metrics in by_variant.values()
            for key, f in metrics.items()
            # Counts and signatures are in the same mapping.
            if isinstance(f, Mapping) and "value" in f
        )
    )


def _share(share_cell: int, n: int, confidence: float) -> Cell:
    low, high = wilson_interval(share_cell, n, confidence)
    return value_cell({"value": share_cell / n if n else None, "low": low, "high": high})
