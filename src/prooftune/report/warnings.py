"""What a reader must know before trusting the figures: nothing that was cut, dropped or invalid
stays silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.report import judge_section, task_display

SMALL_TEST = 200
FORGETTING = 1.2
ALMOST_ALL = 0.95
TEMPERATURE_ENDS = (0.052, 19.0)


def collect_warnings(facts: Mapping[str, Any]) -> list[str]:
    """Sentences, the data's first."""
    scores = facts["scores"]
    found = [str(note) for note in [*(facts.get("notes") or []), *(scores.get("notes") or [])]]
    found += _of_audit(facts.get("audit") or {})
    task = task_display.display_for(scores)
    if scores["n"] < SMALL_TEST:
        found.append(f"The test set has only {scores['n']:,} {task.noun}, so intervals are wide.")
    found += _of_variants(scores["variants"], task) + _below_majority(scores) + _of_answers(scores)
    for name, told in (facts.get("variants") or {}).items():
        if (told.get("training") or {}).get("resumed"):
            found.append(
                f"{name}: training was resumed after an interruption; its time leaves out what "
                "was lost by that, and its "
                "memory is that of the last attempt."
            )
        if told.get("guessed_gold"):
            found.append(
                f"{name}: of {told['guessed_gold']:,} of {scores['n']:,} questions the data names "
                "no passage with the "
                "answer; the one found with the reference answer stood in, which need not hold it."
            )
        found += _of_forgetting(name, told.get("forgetting") or {})
    return list(dict.fromkeys(found))


def _of_audit(audit: Mapping[str, Any]) -> list[str]:
    levels = [str(finding.get("severity")) for finding in audit.get("findings") or []]
    counts = [
        f"{levels.count(level)} {level}{'s' if levels.count(level) > 1 else ''}"
        for level in ("error", "warning")
        if level in levels
    ]
    return (
        [f"The data audit found {' and '.join(counts)} (see “Data audit” in report.html)."]
        if counts
        else []
    )


def _of_variants(variants: Mapping[str, Any], task: task_display.TaskDisplay) -> list[str]:
    """What variants share is said once, with all their names."""
    said: dict[str, list[str]] = {}
    for name, variant in variants.items():
        for sentence in _of_variant(variant, task):
            said.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in said.items()]


def _below_majority(scores: Mapping[str, Any]) -> list[str]:
    """Which variants are worse than saying the commonest label always."""
    figures = {
        name: variant["metrics"].get("accuracy") for name, variant in scores["variants"].items()
    }
    known = {name: figure for name, figure in figures.items() if figure}
    majority = next(
        (known[name]["value"] for name in known if scores["variants"][name]["kind"] == "majority"),
        None,
    )
    if majority is None or scores.get("primary", "accuracy") != "accuracy":
        return []
    below = [name for name, figure in known.items() if figure["high"] < majority]
    return (
        [
            f"{', '.join(below)}: worse than the commonest label, which is right in "
            f"{majority:.1%}; a gain over "
            f"{'it' if len(below) == 1 else 'them'} says little."
        ]
        if below
        else []
    )


def _of_answers(scores: Mapping[str, Any]) -> list[str]:
    """What is to be known of the metrics, not of a variant."""
    found = []
    signatures = [
        v["signatures"].get("meteor", "")
        for v in scores["variants"].values()
        if v.get("signatures")
    ]
    if any("without synonyms" in s for s in signatures):
        found.append(
            "METEOR ran without WordNet’s synonyms, which makes it lower than published figures."
        )
    failed, asked = judge_section.count_failures(scores)
    if failed:
        found.append(
            f"{failed:,} of {asked:,} judgements failed ({failed / asked:.1%}); they are left out "
            "of the judge’s figures."
        )
    return found


def _of_variant(variant: Mapping[str, Any], task: task_display.TaskDisplay) -> list[str]:
    n, found = variant["n"], []
    if variant.get("invalid"):
        found.append(
            f"{variant['invalid']:,} of {n:,} outputs ({variant['invalid'] / n:.1%}) "
            f"{task.invalid_phrase}."
        )
    if variant.get("truncated"):
        found.append(
            f"{variant['truncated']:,} of {n:,} inputs ({variant['truncated'] / n:.1%}) were "
            "shortened to fit "
            "the length limit."
        )
    if variant.get("windowed"):
        found.append(
            f"{variant['windowed']:,} of {n:,} contexts ({variant['windowed'] / n:.1%}) were too "
            "long for one prompt and "
            "were read in overlapping windows; the surest answer of all windows counts."
        )
    if variant.get("unknown_citations"):
        many = variant["unknown_citations"]
        found.append(
            f"{many:,} {'citations name' if many > 1 else 'citation names'} a passage that was "
            "not shown: counted as "
            "wrong, and never shown as a source."
        )
    given = [row["label"] for row in variant.get("per_class") or [] if row["predicted"]]
    if (
        len(given) == 1
        and len(variant["per_class"]) > 1
        and variant["kind"] != "majority"
        and not variant.get("invalid")
    ):
        found.append(
            f"gave the same label, '{given[0]}', to all {n:,} examples: it tells nothing apart, "
            "whatever its accuracy."
        )
    if variant["kind"] != "majority" and ALMOST_ALL * n <= variant.get("abstained", 0) < n:
        found.append(
            f"said “no answer” to {variant['abstained']:,} of {n:,} questions, so its scores are "
            "nearly the share of "
            "questions without one." + _why_abstaining(variant.get("no_answer") or {})
        )
    words = variant["metrics"].get("answer_words")
    if words and words["value"] == 0 and variant["kind"] != "majority":
        found.append(
            "gives no answer to any question"
            + (
                ", which its no-answer threshold makes it do"
                if variant.get("abstained", n) < n
                else ""
            )
            + "; its scores are the share of questions without an answer."
        )
    temperature = variant.get("temperature")
    if temperature is not None and not TEMPERATURE_ENDS[0] < temperature < TEMPERATURE_ENDS[1]:
        found.append(
            f"the validation rows do not determine a temperature (it ran to the end of its range, "
            f"{temperature:.2g}); do not rely on its calibrated probabilities."
        )
    return found


def _why_abstaining(told: Mapping[str, Any]) -> str:
    """What the no-answer score is worth, and what the answers were like before the threshold."""
    apart, before = told.get("auroc"), told.get("has_answer_f1_without")
    if not apart or before is None:
        return ""
    return (
        f" Its no-answer score tells the two kinds apart with AUROC {apart['value']:.1%} "
        f"({apart['low']:.1%} to "
        f"{apart['high']:.1%}; chance is 50%). On questions with an answer its F1 was "
        f"{before:.1%} before the threshold, and "
        f"{told['has_answer_f1_always']:.1%} if made to answer."
    )


def _of_forgetting(name: str, told: Mapping[str, Any]) -> list[str]:
    before, after = told.get("perplexity_before"), told.get("perplexity_after")
    if not before or not after or after / before < FORGETTING:
        return []
    return [
        f"{name}: perplexity on general text rose from {before:.1f} to {after:.1f}; the tuned "
        "model has lost some of "
        "its general ability."
    ]
