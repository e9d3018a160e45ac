"""The caveats of a report: everything truncated, dropped or invalid is counted and shown."""

from __future__ import annotations

from prooftune.evaluation.score_types import (
    Scores,
    defined,
)
from prooftune.evaluation.sentences import join as join_names
from prooftune.evaluation.significance import holm, least_p
from prooftune.report import judge_section, task_display
from prooftune.report.format import interval
from prooftune.report.task_display import TaskDisplay
from prooftune.report.types import AuditRecord, ReportFacts
from prooftune.report.variant_warnings import training_warnings, variant_warnings

SMALL_TEST_SET = 200
"""Test sets below this size get a warning."""
FEW_GROUPS = 15
"""Test sets with fewer groups get a warning."""
TRAINED = ("tuned", "encoder")
"""Kinds of variants whose results depend on a training's random seed."""
FEW_TRAININGS = 2
"""With this many trainings a variance between them has a single degree of freedom."""


def collect_warnings(facts: ReportFacts) -> list[str]:
    """One sentence per caveat, those on the data first.

    Args:
        facts: see `build.write_report`.
    """
    scores = facts["scores"]
    warnings = [str(note) for note in [*(facts.get("notes") or []), *(scores.get("notes") or [])]]
    warnings += _audit_warnings(facts.get("audit") or {})
    task = task_display.display_for(scores)
    if scores["n"] < SMALL_TEST_SET:
        warnings.append(
            f"The test set has only {scores['n']:,} {task.noun}, so intervals are wide."
        )
    warnings += _group_warnings(scores, task)
    warnings += variant_warnings(scores["variants"], task)
    warnings += _below_majority(scores) + _metric_warnings(scores) + _seed_warning(scores)
    for name, details in (facts.get("variants") or {}).items():
        warnings += training_warnings(name, details, scores["n"])
    # A note may be both the data's and the scores'.
    return list(dict.fromkeys(warnings))


def _group_warnings(scores: Scores, task: TaskDisplay) -> list[str]:
    """How many groups the test set has, and what the results by rows would have been."""
    groups = scores["groups"]
    if not groups:
        return []
    count, key = groups["count"], scores["primary"]
    by = "questions with the same context" if groups["by"] == "context" else groups["by"]
    warnings = [
        f"The {scores['n']:,} test {task.noun} come in {count:,} groups ({by}; the largest has "
        f"{groups['largest']:,}). Rows of a group resemble each other, so intervals and tests "
        f"resample groups.{_results_by_rows(scores, key)}"
    ]
    if count < FEW_GROUPS:
        warnings.append(
            f"The test set has only {count} groups, so intervals are wide and approximate; use at "
            f"least {FEW_GROUPS} groups if you can."
        )
    level = scores.get("simultaneous_confidence", scores["confidence"])
    if scores["comparisons"] and least_p(count) > 1 - level:
        warnings.append(
            f"With {count} groups no test can give a p-value below {least_p(count):.2g}, so no "
            f"difference can be significant among {count_comparisons(scores)}."
        )
    return warnings


def _results_by_rows(scores: Scores, key: str) -> str:
    """The interval of the judged variant, and what would have been significant, by rows alone."""
    judged = scores["verdict"]["best_tuned"] or scores["verdict"]["winner"]
    figure = scores["variants"][judged]["metrics"][key]
    by_rows = figure.get("by_rows")
    if not by_rows or by_rows["low"] is None:
        return ""
    scale = task_display.display_for(scores).metrics[key].form.scale
    text = (
        f" Without groups the interval of {judged} would have been {interval(by_rows, scale)} "
        f"instead of {interval(figure, scale)}"
    )
    rows = [row for row in scores["comparisons"] if "by_rows" in row]
    # Adjusted in the same way, so that only the grouping differs.
    adjusted = holm([row["by_rows"]["p"] for row in rows])
    more = sum(
        p < 1 - scores["confidence"] and not row["significant"]
        for p, row in zip(adjusted, rows, strict=True)
    )
    if more:
        text += (
            f", and {more} more of {count_comparisons(scores)} would have been called significant"
        )
    return f"{text}."


def count_comparisons(scores: Scores) -> str:
    """``1 comparison``, ``5 comparisons``."""
    count = len(scores["comparisons"])
    return "1 comparison" if count == 1 else f"{count} comparisons"


def _audit_warnings(audit: AuditRecord) -> list[str]:
    levels = [str(finding.get("severity")) for finding in audit.get("findings") or []]
    counts = [
        f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
        for level in ("error", "warning")
        if level in levels
    ]
    if not counts:
        return []
    return [f"The data audit found {' and '.join(counts)} (see “Data audit” in report.html)."]


def _below_majority(scores: Scores) -> list[str]:
    """Variants that are significantly worse than always predicting the most frequent label."""
    accuracies = {
        name: defined(variant["metrics"]["accuracy"])
        for name, variant in scores["variants"].items()
        if "accuracy" in variant["metrics"]
    }
    majority = next(
        (
            metric["value"]
            for name, metric in accuracies.items()
            if scores["variants"][name]["kind"] == "majority"
        ),
        None,
    )
    if majority is None or scores["primary"] != "accuracy":
        return []
    # The whole interval, so that chance alone does not put a variant here.
    below = [name for name, metric in accuracies.items() if metric["high"] < majority]
    if not below:
        return []
    return [
        f"{', '.join(below)}: worse than always predicting the most frequent label, which is right "
        f"on {majority:.1%}; beating {'it' if len(below) == 1 else 'them'} means little."
    ]


def _metric_warnings(scores: Scores) -> list[str]:
    """Warnings about the metrics and the judge, not about a variant."""
    warnings = []
    signatures = [
        v["signatures"].get("meteor", "")
        for v in scores["variants"].values()
        if v.get("signatures")
    ]
    if any("without synonyms" in s for s in signatures):
        warnings.append(
            "METEOR ran without WordNet synonyms, so it is lower than published scores."
        )
    failed, total = judge_section.count_failures(scores)
    if failed:
        warnings.append(
            f"{failed:,} of {total:,} judgements failed ({failed / total:.1%}); they are excluded "
            "from the judge’s scores."
        )
    return warnings


def _seed_warning(scores: Scores) -> list[str]:
    """What one training per variant cannot show, and what several trainings do."""
    tuned = {name: v for name, v in scores["variants"].items() if v["kind"] in TRAINED}
    if not tuned or not scores["comparisons"]:
        return []
    warnings = []
    once = [name for name, v in tuned.items() if not v.get("trainings")]
    if once:
        warnings.append(
            f"{join_names(once)}: trained once, so intervals and tests do not include how much "
            "results vary between trainings (seeds: 3 measures it)."
        )
    repeated = {name: v["trainings"] for name, v in tuned.items() if "trainings" in v}
    if repeated:
        shown = [
            f"training {facts['best']} of {facts['count']} of {name}"
            for name, facts in repeated.items()
        ]
        warnings.append(
            "Metrics, differences and the verdict are means over trainings, with intervals over "
            "test rows and trainings. Figures of single predictions (labels, confusion, "
            "calibration, abstention, changed examples) are of the training that is best on "
            f"validation rows: {join_names(shown)}."
        )
    two = [name for name, facts in repeated.items() if facts["count"] == FEW_TRAININGS]
    if two:
        warnings.append(
            f"{join_names(two)}: two trainings hardly determine how much results vary between "
            "trainings, so intervals are wide and tests find little; use three or more."
        )
    return warnings
