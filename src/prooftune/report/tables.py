"""The tables of the page: rows in the order in which they are shown, with the small figures inside
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.statistics import wilson_interval
from prooftune.report import figures, task_display
from prooftune.report.cells import Cell, Table
from prooftune.report.format import format_change, format_value, signed_interval
from prooftune.report.svg import Range, ticks

KIND_NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "zero-shot": "zero-shot prompt",
    "few-shot": "few-shot prompt",
    "prompted": "best of several prompts",
    "tuned": "fine-tuned",
}
CONTEXTS = {
    "retrieved": "with the passages found",
    "gold": "control: with the passages that hold the answer",
    "random": "control: with passages drawn at random",
    "none": "without a context",
}
OUTCOMES = {
    "beats": ("better", "good"),
    "loses": ("worse", "bad"),
    "undecided": ("no clear difference", "open"),
}
LARGEST_MATRIX = 16
"""With more labels than this, confusion is shown as the list of the most frequent mistakes."""
MATRIX_WITH_SHARES = 8
MOST_CLASSES = 40
MOST_MISTAKES = 15
MOST_ROWS = 200
"""Rows listed under a finding."""


def tiles(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures under the verdict: the judged variant's quality, and what lies between it and the
    others."""
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    result: list[dict[str, Any]] = [
        {
            "name": judged,
            "figure": scores["variants"][judged]["metrics"][task_display.primary_metric(scores)],
        }
    ]
    for entry in verdict["against"]:
        word, colour = outcome(scores, entry["variant"], judged, entry["outcome"])
        result.append(
            {
                "name": entry["variant"],
                "difference": entry["difference"],
                "p": entry["p_holm"],
                "word": word,
                "colour": colour,
            }
        )
    return result


def outcome(scores: Mapping[str, Any], a: str, b: str, found: str) -> tuple[str, str]:
    """The word and the colour of a comparison: what is better than a control, or worse, is no
    achievement and no failure."""
    word, colour = OUTCOMES[found]
    control = any(task_display.is_control(scores["variants"][name]) for name in (a, b))
    return (word, colour) if found == "undecided" or not control else (f"{word} (control)", "open")


def primary_scale(scores: Mapping[str, Any]) -> Range:
    """From the lowest to the highest interval end of the primary metric, a little wider."""
    found = [v["metrics"][task_display.primary_metric(scores)] for v in scores["variants"].values()]
    marks = ticks(min(f["low"] for f in found), max(f["high"] for f in found), 12)
    return max(0.0, marks[0]), min(1.0, marks[-1])


def difference_scale(scores: Mapping[str, Any]) -> Range:
    found = [c[task_display.primary_metric(scores)] for c in scores["comparisons"]]
    marks = ticks(
        min([0.0, *(f["low"] for f in found)]), max([0.01, *(f["high"] for f in found)]), 12
    )
    return marks[0], marks[-1]


def variant_rows(
    scores: Mapping[str, Any], told: Mapping[str, Any], colours: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The table of variants, the best first and controls last."""
    scale, key = primary_scale(scores), task_display.primary_metric(scores)
    rows = []
    for name, variant in task_display.ranked_variants(scores):
        figure = variant["metrics"][key]
        label = (
            f"{name}: {task_display.display_for(scores).metrics[key].title} {format_value(figure['value'])}, "
            f"from {format_value(figure['low'])} "
            f"to {format_value(figure['high'])}"
        )
        rows.append(
            {
                "name": name,
                "metrics": variant["metrics"],
                "colour": colours[name],
                "control": task_display.is_control(variant),
                "description": described(variant, told.get(name, {}).get("description")),
                "validation": variant.get("validation_quality", variant.get("validation_accuracy")),
                "counts": [
                    variant.get(count, 0)
                    for count, _ in task_display.display_for(scores).count_columns
                ],
                "whisker": figures.whisker(figure, scale, colours[name], label),
            }
        )
    return rows


def described(variant: Mapping[str, Any], description: str | None) -> str:
    """What a variant is, in its own words or by its kind, and what is shown to it."""
    own, context = (
        description or KIND_NAMES.get(variant["kind"], variant["kind"]),
        CONTEXTS.get(variant.get("context") or ""),
    )
    return "; ".join(
        filter(None, [context, own] if task_display.is_control(variant) else [own, context])
    )


def comparison_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paired differences in the order in which they were decided on, before results were known."""
    scale, key = difference_scale(scores), task_display.primary_metric(scores)
    rows = []
    for c in scores["comparisons"]:
        value = c[key]["value"]
        word, colour = outcome(
            scores,
            c["a"],
            c["b"],
            "undecided" if not c["significant"] else "beats" if value > 0 else "loses",
        )
        label = f"{c['a']} minus {c['b']}: {100 * value:+.1f} points"
        rows.append(
            {
                **c,
                "word": word,
                "colour": colour,
                "whisker": figures.whisker(c[key], scale, colour, label, zero=True),
            }
        )
    return rows


def further_differences(scores: Mapping[str, Any]) -> Table | None:
    """Paired differences in every metric; None where the table of differences has them all."""
    every = task_display.compared_metrics(scores)
    if not scores["comparisons"] or len(every) <= len(
        task_display.compared_metrics(scores, task_display.display_for(scores).difference_metrics)
    ):
        return None
    return Table(
        "all-differences-table",
        "Paired differences in all metrics",
        "First minus second; shares in percentage points, BLEU and words in their own units. "
        "Intervals of single differences, "
        "not adjusted.",
        ["metric", *(f"{c['a']} − {c['b']}" for c in scores["comparisons"])],
        [
            (
                metric.title,
                [
                    Cell(
                        format_change(c[key]["value"], metric.form),
                        signed_interval(c[key], metric.form) if c[key]["value"] is not None else "",
                    )
                    for c in scores["comparisons"]
                ],
            )
            for key, metric in every.items()
        ],
    )


def classes(scores: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any] | None:
    """F1 of every label and variant as a table, and two variants of interest as a figure; None
    without labels."""
    if not scores["labels"]:
        return None
    verdict = scores["verdict"]
    after = verdict["best_tuned"] or verdict["winner"]
    others = [verdict["baseline"], *(a["variant"] for a in verdict["against"])]
    before = next((name for name in others if name and name != after), None)
    by_variant = {name: v["per_class"] for name, v in scores["variants"].items()}
    by_size = sorted(range(len(scores["labels"])), key=lambda i: -by_variant[after][i]["support"])
    largest = sorted(by_size[:MOST_CLASSES])
    figure = None
    if before is not None:
        pair = [[by_variant[name][i] for i in largest] for name in (before, after)]
        figure = figures.f1_by_label(
            pair[0], pair[1], (before, after), (colours[before], colours[after])
        )
    return {
        "after": after,
        "before": before,
        "figure": figure,
        "detail": by_variant[after],
        "left_out": len(scores["labels"]) - len(largest),
        "table": [
            {
                "label": label,
                "support": by_variant[after][i]["support"],
                "f1": {name: rows[i]["f1"] for name, rows in by_variant.items()},
            }
            for i, label in enumerate(scores["labels"])
        ],
    }


def confusions(scores: Mapping[str, Any], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Confusion matrices with each cell's share of its row; those of the verdict's variants come
    first."""
    if not scores["labels"]:
        return []
    verdict = scores["verdict"]
    first = [
        name for name in (verdict["best_tuned"] or verdict["winner"], verdict["baseline"]) if name
    ]
    return [
        {
            "name": name,
            "colour": colours[name],
            "open": name in first,
            **_matrix(scores["variants"][name]["confusion"]),
        }
        for name in dict.fromkeys([*first, *scores["variants"]])
    ]


def _matrix(table: Mapping[str, Any]) -> dict[str, Any]:
    columns, rows = table["columns"], []
    for i, (label, counts) in enumerate(zip(table["rows"], table["counts"], strict=True)):
        total = sum(counts)
        # The tint grows with the root of the share, so that rare mistakes can be seen at all.
        cells = [
            {
                "n": n,
                "column": columns[j],
                "share": n / total if total else 0.0,
                "right": i == j,
                "tint": (n / total) ** 0.5 if total else 0.0,
            }
            for j, n in enumerate(counts)
        ]
        rows.append({"label": label, "total": total, "cells": cells})
    mistakes = [
        (cell["n"], row["label"], cell["column"], cell["share"])
        for row in rows
        for cell in row["cells"]
        if not cell["right"] and cell["n"]
    ]
    return {
        "columns": columns,
        "rows": rows,
        "as_table": len(rows) <= LARGEST_MATRIX,
        "with_shares": len(rows) <= MATRIX_WITH_SHARES,
        "upright": len(columns) > 6 or max(map(len, columns)) > 12,
        "mistakes": sorted(mistakes, key=lambda m: -m[0])[:MOST_MISTAKES],
        "mistaken_pairs": len(mistakes),
    }


def abstention(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What answering above a threshold gives; the majority class is as sure of every example."""
    return [
        {"name": name, **v["abstention"]}
        for name, v in scores["variants"].items()
        if v.get("abstention") and v["kind"] != "majority"
    ]


def prompts(told: Mapping[str, Any], confidence: float) -> list[dict[str, Any]]:
    """The prompts used, and for those chosen among several how each did and what it costs beside
    the longest.

    Wilson intervals are of proportions; a mean of figures between 0 and 1 varies no more than a
    proportion does.
    """
    result = []
    for name, variant in told.items():
        tried = []
        longest = max((one["tokens"] for one in variant.get("prompts_tried") or []), default=0)
        for one in variant.get("prompts_tried") or []:
            low, high = wilson_interval(
                round(one["quality"] * one["rows"]), one["rows"], confidence
            )
            tried.append(
                {
                    **one,
                    "figure": {"value": one["quality"], "low": low, "high": high},
                    "saved": longest - one["tokens"],
                    "saved_share": 1 - one["tokens"] / longest if longest else None,
                }
            )
        if variant.get("prompt") or tried:
            best = max((one["quality"] for one in tried), default=None)
            chosen = next((i for i, one in enumerate(tried) if one["quality"] == best), None)
            result.append(
                {"name": name, "prompt": variant.get("prompt"), "tried": tried, "chosen": chosen}
            )
    return result


def costs(told: Mapping[str, Any], estimates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each variant cost; None where it was not recorded."""
    names = (
        "train_seconds",
        "score_seconds",
        "train_tokens",
        "score_tokens",
        "generated_tokens",
        "peak_memory_bytes",
    )
    return [
        {
            "name": name,
            **{key: v["cost"].get(key) for key in names},
            "estimate": estimates.get(name),
        }
        for name, v in told.items()
        if v.get("cost")
    ]


def data(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Findings, the most severe first, and the sizes of the splits."""
    audit = facts.get("audit")
    if not audit:
        return None
    order = {"error": 0, "warning": 1, "info": 2}
    balance = {split: counts for split, counts in (audit.get("balance") or {}).items() if counts}
    labels = list(
        dict.fromkeys(
            [*facts["scores"]["labels"], *(k for counts in balance.values() for k in counts)]
        )
    )
    totals = {split: sum(counts.values()) for split, counts in balance.items()}
    largest = max(
        (n / totals[split] for split, counts in balance.items() for n in counts.values()),
        default=1.0,
    )
    rows = []
    for label in labels:
        cells = {
            split: {"n": counts.get(label, 0), "share": counts.get(label, 0) / totals[split]}
            for split, counts in balance.items()
        }
        bar = figures.split_bars(
            [(split, cell["share"]) for split, cell in cells.items()], largest, label
        )
        rows.append({"label": label, "cells": cells, "bar": bar})
    findings = [{**f, "shown": f["rows"][:MOST_ROWS]} for f in audit.get("findings") or []]
    return {
        "findings": sorted(findings, key=lambda f: order.get(f["severity"], 3)),
        "splits": list(balance),
        "totals": totals,
        "balance": rows if balance else [],
        "notes": facts.get("notes") or [],
        "rows": audit.get("rows") or {},
        "lengths": audit.get("lengths") or {},
        "truncation": audit.get("truncation") or {},
    }
