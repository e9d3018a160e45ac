"""The tables of the page: rows in the order in which they are shown, with the small figures inside
them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.score_types import (
    Figure,
    Scores,
    VariantMeasurements,
    defined,
    metric_difference,
    output_count,
)
from prooftune.report import cell_figures, task_display
from prooftune.report.cells import Cell, Table
from prooftune.report.format import (
    MISSING,
    PERCENT,
    NumberFormat,
    format_change,
    format_value,
    signed_interval,
)
from prooftune.report.svg import Range, ticks
from prooftune.report.types import ReportedVariant, ReportFacts
from prooftune.report.variant_names import describe_variant

OUTCOMES = {
    "beats": ("better", "good"),
    "loses": ("worse", "bad"),
    "undecided": ("cannot be told apart", "open"),
}
MAX_LISTED_ROWS = 200
"""Row ids listed under a finding."""


def tiles(scores: Scores) -> list[dict[str, Any]]:
    """The tiles under the verdict: the main variant's score, and its difference to the others."""
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    result: list[dict[str, Any]] = [
        {
            "name": judged,
            "figure": scores["variants"][judged]["metrics"][scores["primary"]],
            "trainings": _trainings(scores["variants"][judged]),
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


def _trainings(variant: VariantMeasurements) -> int | None:
    """Number of trainings; None for a variant that is trained once, or not at all."""
    trainings = variant.get("trainings")
    return trainings["count"] if trainings else None


def outcome(scores: Scores, a: str, b: str, result: str) -> tuple[str, str]:
    """Label and colour of a comparison; comparisons with a control are neither good nor bad."""
    word, colour = OUTCOMES[result]
    control = any(task_display.is_control(scores["variants"][name]) for name in (a, b))
    return (word, colour) if result == "undecided" or not control else (f"{word} (control)", "open")


def primary_scale(scores: Scores) -> Range:
    """The range of all intervals of the primary metric, rounded outwards."""
    metrics = [defined(v["metrics"][scores["primary"]]) for v in scores["variants"].values()]
    marks = ticks(min(f["low"] for f in metrics), max(f["high"] for f in metrics), 12)
    # Rounding outwards must not leave the range of shares.
    return max(0.0, marks[0]), min(1.0, marks[-1])


def difference_scale(scores: Scores) -> Range:
    differences = [defined(metric_difference(c, scores["primary"])) for c in scores["comparisons"]]
    marks = ticks(
        # With 0 on the scale, where "no difference" is.
        min([0.0, *(f["low"] for f in differences)]),
        max([0.01, *(f["high"] for f in differences)]),
        12,
    )
    return marks[0], marks[-1]


def variant_rows(
    scores: Scores, details: Mapping[str, ReportedVariant], colours: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The table of variants, best first, controls last."""
    scale, key = primary_scale(scores), scores["primary"]
    models = {name: model for name, v in scores["variants"].items() if (model := v.get("model"))}
    rows = []
    for name, variant in task_display.ranked_variants(scores):
        figure = defined(variant["metrics"][key])
        title = task_display.display_for(scores).metrics[key].title
        label = (
            f"{name}: {title} {format_value(figure['value'])}, "
            f"from {format_value(figure['low'])} to {format_value(figure['high'])}"
        )
        rows.append(
            {
                "name": name,
                "metrics": variant["metrics"],
                "colour": colours[name],
                "control": task_display.is_control(variant),
                "description": describe_variant(
                    variant,
                    # The variant's own words, from its details.json.
                    details.get(name, {}).get("description"),
                    # The model is named where it tells variants apart.
                    models.get(name) if len(set(models.values())) > 1 else None,
                ),
                "validation": variant.get("validation_quality", variant.get("validation_accuracy")),
                "counts": [
                    output_count(variant, count)
                    for count, _ in task_display.display_for(scores).count_columns
                ],
                "whisker": cell_figures.whisker(figure, scale, colours[name], label),
            }
        )
    return rows


def comparison_rows(scores: Scores) -> list[dict[str, Any]]:
    """Paired differences, in the order fixed before the results were known."""
    scale, key = difference_scale(scores), scores["primary"]
    form = task_display.display_for(scores).metrics[key].form
    unit = " points" if form is PERCENT else ""
    rows = []
    for c in scores["comparisons"]:
        difference = defined(metric_difference(c, key))
        value = difference["value"]
        word, colour = outcome(
            scores,
            c["a"],
            c["b"],
            "undecided" if not c["significant"] else "beats" if value > 0 else "loses",
        )
        label = f"{c['a']} minus {c['b']}: {format_change(value, form)}{unit}"
        rows.append(
            {
                **c,
                "word": word,
                "colour": colour,
                "whisker": cell_figures.whisker(difference, scale, colour, label, zero=True),
            }
        )
    return rows


def further_differences(scores: Scores) -> Table | None:
    """Paired differences in all metrics; None where the main table shows them all."""
    metrics = task_display.compared_metrics(scores)
    if not scores["comparisons"] or len(metrics) <= len(
        task_display.compared_metrics(scores, task_display.display_for(scores).difference_metrics)
    ):
        return None
    return Table(
        "all-differences-table",
        "Paired differences in all metrics",
        "First minus second; proportions in percentage points, BLEU and words in their own "
        "units. The intervals of a metric hold simultaneously for all comparisons.",
        ["metric", *(f"{c['a']} − {c['b']}" for c in scores["comparisons"])],
        [
            (
                metric.title,
                [
                    _difference_cell(metric_difference(c, key), metric.form)
                    for c in scores["comparisons"]
                ],
            )
            for key, metric in metrics.items()
        ],
    )


def _difference_cell(figure: Figure | None, form: NumberFormat) -> Cell:
    if figure is None or figure["value"] is None:
        return Cell(MISSING)
    return Cell(format_change(figure["value"], form), signed_interval(figure, form))


def prompt_rows(details: Mapping[str, ReportedVariant], confidence: float) -> list[dict[str, Any]]:
    """The prompts used, and for prompt searches the score and token count of each candidate.

    Wilson intervals are for proportions. They are conservative for a mean of values between 0
    and 1, which varies no more than a proportion does.
    """
    result = []
    for name, variant in details.items():
        tried = []
        candidates = variant.get("prompts_tried") or []
        # Tokens are saved against the longest prompt that was tried.
        longest = max((candidate["tokens"] for candidate in candidates), default=0.0)
        for candidate in candidates:
            low, high = wilson_interval(
                round(candidate["quality"] * candidate["rows"]), candidate["rows"], confidence
            )
            tried.append(
                {
                    **candidate,
                    "figure": {"value": candidate["quality"], "low": low, "high": high},
                    "saved": longest - candidate["tokens"],
                    "saved_share": 1 - candidate["tokens"] / longest if longest else None,
                }
            )
        if variant.get("prompt") or tried:
            best = max((candidate["quality"] for candidate in candidates), default=None)
            # The first of equals, as in the search itself.
            selected = next(
                (i for i, candidate in enumerate(candidates) if candidate["quality"] == best), None
            )
            result.append(
                {
                    "name": name,
                    "prompt": variant.get("prompt"),
                    "tried": tried,
                    "selected": selected,
                }
            )
    return result


def data_audit(facts: ReportFacts) -> dict[str, Any] | None:
    """Audit findings, most severe first, and the sizes of the splits."""
    audit = facts.get("audit")
    if not audit:
        return None
    order = {"error": 0, "warning": 1, "info": 2}
    # A split may be empty: validation without rows, or whose rows all have no label.
    balance = {
        split: counts
        for split, counts in (audit.get("balance") or {}).items()
        if any(counts.values())
    }
    labels = list(
        dict.fromkeys(
            [*facts["scores"]["labels"], *(k for counts in balance.values() for k in counts)]
        )
    )
    totals = {split: sum(counts.values()) for split, counts in balance.items()}
    # One scale for all bars, so that labels can be compared.
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
        bar = cell_figures.split_bars(
            [(split, cell["share"]) for split, cell in cells.items()], largest, label
        )
        rows.append({"label": label, "cells": cells, "bar": bar})
    findings = [{**f, "shown": f["rows"][:MAX_LISTED_ROWS]} for f in audit.get("findings") or []]
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
