"""The section on answers: with and without an answer in the text, what models wrote, and the
no-answer threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.report import figures, task_display
from prooftune.report.cells import Cell, Table, figure, number, part
from prooftune.report.format import TENTHS, count, percent, signed, written
from prooftune.types import ANSWERABLE, UNANSWERABLE


def answers(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Tables and threshold curves of a study of questions; None for other tasks."""
    if not task_display.of(scores).outputs:
        return None
    return {
        "tables": [t for t in (strata(scores), outputs(scores)) if t],
        "thresholds": thresholds(scores),
        "threshold_table": threshold_table(scores),
        "signatures": signatures(scores),
    }


def strata(scores: Mapping[str, Any]) -> Table | None:
    """EM and F1 of questions with an answer and of those without; None where all are of one sort."""
    support = scores["support"]
    if not support.get(ANSWERABLE) or not support.get(UNANSWERABLE):
        return None
    return Table(
        "strata-table",
        "Questions with and without an answer",
        f"{percent(scores['confidence'], 0)} intervals, seed {scores['seed']}. Where there is no "
        "answer only an empty one "
        "scores, so that EM and F1 are the same.",
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
                    figure(v["metrics"][key])
                    for key in ("has_answer_exact", "has_answer_f1", "no_answer_exact")
                ],
            )
            for name, v in task_display.ranked(scores)
        ],
    )


def outputs(scores: Mapping[str, Any]) -> Table:
    """What became of every variant's answers."""
    kinds = task_display.of(scores).outputs
    later = any(v.get("no_answer") for v in scores["variants"].values())
    return Table(
        "outputs-table",
        "Answers as they were written",
        f"Answers to {count(scores['n'])} questions"
        + (
            "; counts and tokens before the no-answer threshold is applied, words after it."
            if later
            else "."
        ),
        [
            "variant",
            *(heading for _, heading in kinds),
            "words per answer",
            "tokens generated",
            "per question",
        ],
        [
            (
                name,
                [
                    *(part(v.get(key, 0), v["n"]) for key, _ in kinds),
                    figure(v["metrics"].get("answer_words"), TENTHS),
                    number(v.get("generated_tokens")),
                    Cell(written(v["generated_tokens"] / v["n"], TENTHS)),
                ],
            )
            for name, v in task_display.ranked(scores)
        ],
    )


def thresholds(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One curve for each variant that has a threshold."""
    return [
        {
            "name": name,
            "figure": figures.threshold(v["no_answer"], v["metrics"]["f1"]["value"], name),
        }
        for name, v in task_display.ranked(scores)
        if v.get("no_answer")
    ]


def threshold_table(scores: Mapping[str, Any]) -> Table | None:
    """What the threshold gives and what any could have given."""
    rows = [
        (
            name,
            [
                Cell(signed(t["value"], 2)),
                number(t["validation_n"]),
                figure(v["metrics"]["f1"]),
                Cell(written(t["f1_without"])),
                figure(v["metrics"]["exact"]),
                Cell(written(t["exact_without"])),
                Cell(written(t["best_f1_on_test"])),
                figure(t["auroc"]),
            ],
        )
        for name, v in task_display.ranked(scores)
        if (t := v.get("no_answer"))
    ]
    return (
        Table(
            "threshold-table",
            "No-answer thresholds",
            f"On {count(scores['n'])} test questions. The best on test is found with the answers "
            "known: a bound, and no result. "
            "AUROC: how often a question without an answer has a higher no-answer score than one "
            "with an answer; 50% is chance.",
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


def signatures(scores: Mapping[str, Any]) -> Table | None:
    """What computed every metric; metrics computed alike share a row."""
    said: dict[str, dict[str, None]] = {}
    for variant in scores["variants"].values():
        for key, signature in (variant.get("signatures") or {}).items():
            metric = task_display.of(scores).metrics.get(key)
            said.setdefault(signature, {})[metric.heading if metric else key] = None
    return (
        Table(
            "signatures-table",
            "What computed the metrics",
            "",
            ["metric", "signature"],
            [
                (", ".join(names), [Cell(signature, words=True)])
                for signature, names in said.items()
            ],
        )
        if said
        else None
    )
