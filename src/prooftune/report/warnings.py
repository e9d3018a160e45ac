"""The caveats of a report: everything truncated, dropped or invalid is counted and shown."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.score_types import (
    NoAnswerThreshold,
    Scores,
    VariantMeasurements,
    defined,
)
from prooftune.evaluation.sentences import join as join_names
from prooftune.evaluation.significance import holm, least_p
from prooftune.report import judge_section, task_display
from prooftune.report.format import interval
from prooftune.report.task_display import TaskDisplay
from prooftune.report.types import AuditRecord, ReportedVariant, ReportFacts

SMALL_TEST_SET = 200
"""Test sets below this size get a warning."""
FEW_GROUPS = 15
"""Test sets with fewer groups get a warning."""
TRAINED = ("tuned", "encoder")
"""Kinds of variants whose results depend on a training's random seed."""
FEW_TRAININGS = 2
"""With this many trainings a variance between them has a single degree of freedom."""
FORGETTING_RATIO = 1.2
"""Perplexity after tuning over that before, from which forgetting is reported."""
ALWAYS_ABSTAINS = 0.95
"""Share of abstentions from which a variant is said to abstain almost always."""
# A little inside `calibration.TEMPERATURES`, whose ends the search approaches and does not reach.
TEMPERATURE_BOUNDS = (0.052, 19.0)
"""Fitted temperatures outside ran to the end of the search interval."""


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
    warnings += _variant_warnings(scores["variants"], task)
    warnings += _below_majority(scores) + _metric_warnings(scores) + _seed_warning(scores)
    for name, details in (facts.get("variants") or {}).items():
        warnings += _training_warnings(name, details, scores["n"])
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


def _variant_warnings(variants: Mapping[str, VariantMeasurements], task: TaskDisplay) -> list[str]:
    """Warnings about variants; one that several variants share is given once, with their names."""
    names_by_warning: dict[str, list[str]] = {}
    for name, variant in variants.items():
        for sentence in [
            *_input_warnings(variant),
            *_output_warnings(variant, task),
            *_degenerate_warnings(variant),
        ]:
            names_by_warning.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in names_by_warning.items()]


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


def _input_warnings(variant: VariantMeasurements) -> list[str]:
    n, warnings = variant["n"], []
    if variant.get("truncated"):
        warnings.append(
            f"{variant['truncated']:,} of {n:,} inputs ({variant['truncated'] / n:.1%}) were "
            "truncated to the length limit."
        )
    if variant.get("windowed"):
        warnings.append(
            f"{variant['windowed']:,} of {n:,} contexts ({variant['windowed'] / n:.1%}) were too "
            "long for one prompt and were split into overlapping windows; the most confident "
            "answer of all windows counts."
        )
    return warnings


def _output_warnings(variant: VariantMeasurements, task: TaskDisplay) -> list[str]:
    n, warnings = variant["n"], []
    if variant.get("invalid"):
        warnings.append(
            f"{variant['invalid']:,} of {n:,} outputs ({variant['invalid'] / n:.1%}) "
            f"{task.invalid_phrase}."
        )
    if variant.get("unknown_citations"):
        count = variant["unknown_citations"]
        warnings.append(
            f"{count:,} {'citations name' if count > 1 else 'citation names'} a passage that was "
            "not retrieved: counted as errors, and never listed as sources."
        )
    temperature = variant.get("temperature")
    if temperature is not None and not TEMPERATURE_BOUNDS[0] < temperature < TEMPERATURE_BOUNDS[1]:
        warnings.append(
            "the validation rows do not determine a temperature (the fit stopped at the bound, "
            f"{temperature:.2g}); do not rely on its calibrated probabilities."
        )
    return warnings


def _degenerate_warnings(variant: VariantMeasurements) -> list[str]:
    """Warnings about variants that give (almost) the same output for every example."""
    n, warnings = variant["n"], []
    if variant["kind"] == "majority":
        return []
    predicted = [row["label"] for row in variant.get("per_class") or [] if row["predicted"]]
    if len(predicted) == 1 and len(variant["per_class"]) > 1 and not variant.get("invalid"):
        warnings.append(
            f"predicts the same label, '{predicted[0]}', for all {n:,} examples: it does not "
            "discriminate, whatever its accuracy."
        )
    abstained = variant.get("abstained")
    if ALWAYS_ABSTAINS * n <= (abstained or 0) < n:
        warnings.append(
            f"abstains on {abstained:,} of {n:,} questions, so its scores are close to the share "
            "of unanswerable questions." + _abstention_causes(variant.get("no_answer"))
        )
    words = variant["metrics"].get("answer_words")
    if words and words["value"] == 0:
        by_threshold = abstained is not None and abstained < n
        warnings.append(
            "answers no question"
            + (", because of its no-answer threshold" if by_threshold else "")
            + "; its scores are the share of unanswerable questions."
        )
    return warnings


def _abstention_causes(threshold: NoAnswerThreshold | None) -> str:
    """How well the no-answer score discriminates, and how good the answers were before it."""
    if threshold is None:
        return ""
    auroc, before = threshold["auroc"], threshold["has_answer_f1_without"]
    if not auroc or before is None:
        return ""
    return (
        " Its no-answer score separates answerable from unanswerable questions with AUROC "
        f"{auroc['value']:.1%} ({auroc['low']:.1%} to {auroc['high']:.1%}; chance is 50%). On "
        f"answerable questions its F1 was {before:.1%} before the threshold, and "
        f"{threshold['has_answer_f1_always']:.1%} without abstention."
    )


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


def _training_warnings(name: str, details: ReportedVariant, n: int) -> list[str]:
    """Warnings about resumed training, assumed gold passages, and forgetting."""
    warnings = []
    training = details.get("training")
    if training and training.get("resumed"):
        warnings.append(
            f"{name}: training was resumed after an interruption. Its time excludes the work lost "
            "by that, and its peak memory is that of the last attempt."
        )
    if details.get("guessed_gold"):
        warnings.append(
            f"{name}: for {details['guessed_gold']:,} of {n:,} questions the data names no gold "
            "passage; the best match of question and reference answer was used, which may not "
            "hold the answer."
        )
    forgetting = details.get("forgetting")
    if forgetting is None:
        return warnings
    before, after = forgetting["perplexity_before"], forgetting["perplexity_after"]
    if before and after and after / before >= FORGETTING_RATIO:
        warnings.append(
            f"{name}: perplexity on general text rose from {before:.1f} to {after:.1f}; the tuned "
            "model has lost some of its general ability."
        )
    return warnings
