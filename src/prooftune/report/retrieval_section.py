"""The sections on what answers rest on: passages found, and passages cited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.statistics import wilson_interval
from prooftune.report import task_display
from prooftune.report.cells import Cell, Table, count_cell, value_cell
from prooftune.report.format import count, percent

_CITATIONS = {
    "citation_precision": "precision",
    "citation_recall": "recall",
    "unsupported_rate": "supported by no passage",
    "unknown_citation_rate": "unknown, of all citations",
}
_WITH_PASSAGES = ("retrieved", "gold", "random")


def retrieval_table(scores: Mapping[str, Any]) -> Table | None:
    """How well the passages with the answers were found; None where that is not known."""
    found = {
        name: v["retrieval"]
        for name, v in task_display.ranked_variants(scores)
        if v.get("retrieval")
    }
    keys = _figures(found)
    if not keys:
        return None
    left_out = max(f.get("without_gold") or 0 for f in found.values())
    return Table(
        "retrieval-table",
        "Retrieval",
        f"{percent(scores['confidence'], 0)} intervals, seed {scores['seed']}, over test "
        "questions whose passages the data names"
        + (f"; {count(left_out)} others are left out." if left_out else "."),
        ["variant", "questions", *keys],
        [
            (name, [count_cell(f.get("n")), *(value_cell(f.get(key)) for key in keys)])
            for name, f in found.items()
        ],
    )


def citations_table(scores: Mapping[str, Any]) -> Table | None:
    """Which answers name passages and whether they are the right ones; None where no variant was
    shown any."""
    citing = {
        name: v
        for name, v in task_display.ranked_variants(scores)
        if v.get("context") in _WITH_PASSAGES
        or v.get("cited")
        or v.get("unknown_citations")
        or v.get("citations")
    }
    if not citing:
        return None
    told = {name: v.get("citations") or {} for name, v in citing.items()}
    keys = [key for key in _CITATIONS if key in _figures(told)]
    rules = dict.fromkeys(
        rule for t in told.values() for rule in (t.get("signatures") or {}).values()
    )
    return Table(
        "citations-table",
        "Citations",
        f"{percent(scores['confidence'], 0)} intervals, of shares of all {count(scores['n'])} "
        "answers by Wilson." + (f" Support: {', '.join(rules)}." if rules else ""),
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
                    *(value_cell(told[name].get(key)) for key in keys),
                ],
            )
            for name, v in citing.items()
        ],
    )


def _figures(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys of all that has a value and an interval, in order."""
    return list(
        dict.fromkeys(
            key
            for told in found.values()
            for key, f in told.items()
            if isinstance(f, Mapping) and "value" in f
        )
    )


def _share(share_cell: int, n: int, confidence: float) -> Cell:
    low, high = wilson_interval(share_cell, n, confidence)
    return value_cell({"value": share_cell / n if n else None, "low": low, "high": high})
