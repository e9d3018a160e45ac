"""The section on answers: answerability, output counts, and the no-answer threshold."""

from __future__ import annotations

from typing import Any

from prooftune.evaluation.score_types import (
    Scores,
    defined,
    output_count,
)
from prooftune.report import figures, task_display
from prooftune.report.cells import Cell, Table, count_cell, share_cell, value_cell
from prooftune.report.format import ONE_DECIMAL, count, format_value, percent, signed
from prooftune.types import ANSWERABLE, UNANSWERABLE


def answers_section(scores: Scores) -> dict[str, Any] | None:
    """Tables and threshold curves of a question-answering study; None for other tasks."""
    if not task_display.display_for(scores).output_columns:
        return None
    return {
        "tables": [t for t in (answerability_table(scores), outputs_table(scores)) if t],
        "thresholds": threshold_curves(scores),
        "threshold_table": threshold_table(scores),
        "signatures": signatures_table(scores),
    }


def answerability_table(scores: Scores) -> Table | None:
    """EM and F1 on answerable and unanswerable questions; None where all are of one kind."""
    support = scores["support"]
    # With one kind of question this table would repeat that of the variants.
    if not support.get(ANSWERABLE) or not support.get(UNANSWERABLE):
        return None
    return Table(
        "strata-table",
        "Questions with and without an answer",
        f"{percent(scores['confidence'], 0)} intervals, seed {scores['seed']}. On questions "
        "without an answer only an empty prediction scores, so EM and F1 are equal.",
        [
            "variant",
            f"EM, {ANSWERABLE} (n = {count(support[ANSWERABLE])})",
            f"F1, {ANSWERABLE}",
            f"EM and F1, {UNANSWERABLE} (n = {count(support[UNANSWERABLE])})",
        ],
        [
            (
                name,
                [
                    value_cell(v["metrics"][key])
                    for key in ("has_answer_exact", "has_answer_f1", "no_answer_exact")
                ],
            )
            for name, v in task_display.ranked_variants(scores)
        ],
    )


def outputs_table(scores: Scores) -> Table:
    """Counts of abstentions, truncations and invalid answers, and the answers' lengths."""
    columns = task_display.display_for(scores).output_columns
    has_threshold = any(v.get("no_answer") for v in scores["variants"].values())
    return Table(
        "outputs-table",
        "Raw answers",
        f"Answers to {count(scores['n'])} questions"
        + (
            ". Counts and tokens: before the no-answer threshold; words: after it."
            if has_threshold
            else "."
        ),
        [
            "variant",
            *(heading for _, heading in columns),
            "words per answer",
            "tokens generated",
            "per question",
        ],
        [
            (
                name,
                [
                    *(share_cell(output_count(v, key), v["n"]) for key, _ in columns),
                    value_cell(v["metrics"].get("answer_words"), ONE_DECIMAL),
                    count_cell(v.get("generated_tokens")),
                    Cell(format_value(v["generated_tokens"] / v["n"], ONE_DECIMAL)),
                ],
            )
            for name, v in task_display.ranked_variants(scores)
        ],
    )


def threshold_curves(scores: Scores) -> list[dict[str, Any]]:
    """One curve for each variant that has a threshold."""
    return [
        {
            # `metrics` are after the threshold, as the marked point of the curve is.
            "name": name,
            "figure": figures.threshold_curve(
                threshold, defined(v["metrics"]["f1"])["value"], name
            ),
        }
        for name, v in task_display.ranked_variants(scores)
        if (threshold := v.get("no_answer"))
    ]


def threshold_table(scores: Scores) -> Table | None:
    """Scores with and without the threshold, and the best that any threshold reaches on test."""
    rows = [
        (
            name,
            [
                Cell(signed(t["value"], 2)),
                count_cell(t["validation_n"]),
                value_cell(v["metrics"]["f1"]),
                Cell(format_value(t["f1_without"])),
                value_cell(v["metrics"]["exact"]),
                Cell(format_value(t["exact_without"])),
                Cell(format_value(t["best_f1_on_test"])),
                value_cell(t["auroc"]),
            ],
        )
        for name, v in task_display.ranked_variants(scores)
        if (t := v.get("no_answer"))
    ]
    return (
        Table(
            "threshold-table",
            "No-answer thresholds",
            f"On {count(scores['n'])} test questions. The best on test uses the test "
            "answers, so it is an upper bound and not a result. AUROC: how often a question "
            "without an answer has a higher no-answer score than one with an answer; 50% is "
            "chance.",
            [
                "variant",
                "threshold (nats)",
                "chosen on",
                "F1 with it",
                "F1 without",
                "EM with it",
                "EM without",
                "best F1 on test",
                "AUROC",
            ],
            rows,
        )
        if rows
        else None
    )


def signatures_table(scores: Scores) -> Table | None:
    """The implementation of every metric; metrics of one implementation share a row."""
    # Dictionaries as ordered sets: a metric of several variants is named once.
    by_signature: dict[str, dict[str, None]] = {}
    for variant in scores["variants"].values():
        for key, signature in (variant.get("signatures") or {}).items():
            metric = task_display.display_for(scores).metrics.get(key)
            by_signature.setdefault(signature, {})[metric.heading if metric else key] = None
    return (
        Table(
            "signatures-table",
            "Metric implementations",
            "",
            ["metric", "signature"],
            [
                (", ".join(names), [Cell(signature, is_text=True)])
                for signature, names in by_signature.items()
            ],
        )
        if by_signature
        else None
    )
