"""From facts to the template context: order, colours and figures.

Sections without data are None and left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.evaluation.calibration import LEAST_VALIDATION_ROWS
from prooftune.evaluation.changes import NO_ANSWER
from prooftune.report import (
    abstention_section,
    answers_section,
    cell_figures,
    continued_section,
    costs_section,
    curves,
    errors_section,
    instructions_section,
    judge_section,
    label_errors_section,
    label_tables,
    languages_section,
    learning_curve_section,
    pretraining_section,
    retrieval_section,
    search_section,
    tables,
    task_display,
)
from prooftune.report.types import ReportFacts
from prooftune.report.warnings import collect_warnings

COLOURS = {
    "tuned": ("s0", "s1"),
    "zero-shot": ("s2",),
    "few-shot": ("s3",),
    "prompted": ("s4",),
    "tfidf": ("s5",),
    "embedding": ("s8",),
    "majority": ("s6",),
    "retrieval": ("s7",),
    "control": ("s9", "s6"),
}
SPARE_COLOURS = ("s7", "s9")
LAST_COLOUR = SPARE_COLOURS[-1]

SECTIONS = {
    "variants": "Variants",
    "differences": "Paired differences",
    "answers": "Answers",
    "retrieval": "Retrieval",
    "citations": "Citations",
    "instructions": "Instruction following",
    "languages": "Languages",
    "judge": "Judge",
    "labels": "Scores by label",
    "confusion": "Confusion matrices",
    "calibration": "Calibration",
    "abstention": "Risk and coverage",
    "changed": "Changed examples",
    "errors": "Where it fails",
    "search": "Hyperparameter search",
    "learning_curve": "Learning curve",
    "label_errors": "Doubtful labels",
    "pretraining": "Pretraining",
    "continued": "Training beyond tuning",
    "training": "Training",
    "forgetting": "Forgetting",
    "prompts": "Prompts",
    "data": "Data audit",
    "cost": "Cost",
    "reproduction": "Reproduction",
}
"""Sections of the page in order: id, which is also the template's name, and title."""


def page_context(facts: ReportFacts) -> dict[str, Any]:
    """The context of the page template.

    Args:
        facts: see `build.build`.
    """
    scores = facts["scores"]
    details = facts.get("variants") or {}
    colours = colour_classes(
        {name: v.get("role") or v["kind"] for name, v in scores["variants"].items()}
    )
    task = task_display.display_for(scores)
    form = task.metrics[scores["primary"]].form
    result: dict[str, Any] = {
        "name": facts["name"],
        "scores": scores,
        "verdict": scores["verdict"],
        "colours": colours,
        "task": task,
        "primary": scores["primary"],
        "primary_title": task.metrics[scores["primary"]].title,
        "primary_form": form,
        "tiles": tables.tiles(scores),
        "warnings": collect_warnings(facts),
        "variants": tables.variant_rows(scores, details, colours),
        "repeated": any(v.get("trainings") for v in scores["variants"].values()),
        "variant_axis": cell_figures.whisker_axis(tables.primary_scale(scores), form),
        "columns": task_display.available_metrics(scores, task.variant_metrics),
        "metrics": task_display.available_metrics(scores),
        "differences": tables.comparison_rows(scores),
        "compared": task_display.compared_metrics(scores, task.difference_metrics),
        "difference_axis": cell_figures.whisker_axis(
            tables.difference_scale(scores), form, signs=True
        ),
        "further_differences": tables.further_differences(scores),
        "answers": answers_section.answers_section(scores),
        "retrieval": retrieval_section.retrieval_table(scores),
        "citations": retrieval_section.citations_table(scores),
        "instructions": instructions_section.instructions_table(scores),
        "instruction_differences": instructions_section.instruction_differences_table(scores),
        "languages": languages_section.languages_table(scores),
        "left_out": languages_section.left_out_table(scores),
        "judge": judge_section.judge_section(scores),
        "labels": label_tables.label_scores(scores, colours),
        "confusion": label_tables.confusion_matrices(scores, colours),
        "calibration": curves.reliability_diagrams(scores),
        "least_validation_rows": LEAST_VALIDATION_ROWS,
        "abstention": abstention_section.abstention_table(scores),
        "abstention_note": abstention_section.abstention_note(scores),
        "risk": curves.risk_coverage(scores, colours),
        "changed": scores.get("changed"),
        "errors": errors_section.errors_section(scores),
        "search": search_section.search_section(scores, colours),
        "learning_curve": learning_curve_section.learning_curve_section(scores, colours),
        "label_errors": label_errors_section.label_errors_section(scores),
        "no_answer": NO_ANSWER,
        "pretraining": pretraining_section.pretraining_section(scores, details),
        "continued": continued_section.continued_sentences(scores, details),
        "training": [
            curves.training_curves(name, v, scores["variants"].get(name), scores["primary"])
            for name, v in details.items()
            if v.get("training") or v.get("changes")
        ],
        "forgetting": {name: v["forgetting"] for name, v in details.items() if v.get("forgetting")},
        "prompts": tables.prompt_rows(details, scores["confidence"]),
        "prediction_costs": costs_section.costs_section(scores, colours),
        "costs": costs_section.cost_rows(details, facts.get("estimates") or {}),
        "data": tables.data_audit(facts),
        "environment": facts.get("environment") or {},
        "weights": {
            name: v["weights_sha256"] for name, v in details.items() if v.get("weights_sha256")
        },
        "recipe": facts.get("recipe"),
        "created": facts.get("created"),
        "version": facts.get("prooftune_version"),
        "seed": facts.get("seed", scores["seed"]),
    }
    # Last, since it lists the sections that have data.
    return result | {"contents": section_titles(result)}


def section_titles(context: Mapping[str, Any]) -> dict[str, str]:
    """Id and title of every section that has data."""
    filled = {
        **context,
        # This section has two parts, of which either is enough.
        "abstention": context["abstention"] or context["abstention_note"] or context["risk"],
        "cost": context["costs"],
        "reproduction": True,
    }
    titles = {**SECTIONS, "changed": f"Changed {context['task'].noun}"}
    return {key: title for key, title in titles.items() if filled[key]}


def colour_classes(kinds: Mapping[str, str]) -> dict[str, str]:
    """A CSS colour class for each variant by its kind or role.

    A variant has the same colour in every figure, and a kind of variant in every study.
    """
    used: set[str] = set()
    result = {}
    for name, kind in kinds.items():
        # The first free colour of the kind, then a spare one.
        # In the order of the recipe, so that adding a variant at its end changes no colour.
        free = [c for c in (*COLOURS.get(kind, ()), *SPARE_COLOURS) if c not in used]
        result[name] = free[0] if free else LAST_COLOUR
        used.add(result[name])
    return result
