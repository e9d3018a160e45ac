"""The section on pretraining: what was read, and whether it helped beyond tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from prooftune.evaluation.score_types import Scores
from prooftune.report import task_display, training_figures
from prooftune.report.cells import Cell, Table, count_cell
from prooftune.report.format import (
    MISSING,
    format_change,
    p_value,
    percent,
    signed_interval,
    significant,
)
from prooftune.report.step_effect import difference_from, step_effect
from prooftune.report.types import ReportedVariant
from prooftune.variant_details import PretrainingRecord


def pretraining_section(
    scores: Scores, details: Mapping[str, ReportedVariant]
) -> dict[str, Any] | None:
    """Sentences, table and loss curves; None where no variant was pretrained."""
    table = pretraining_table(scores, details)
    if table is None:
        return None
    records = {n: v["pretraining"] for n, v in details.items() if "pretraining" in v}
    return {
        "sentences": [_sentence(scores, name, details[name]) for name in records],
        "table": table,
        "curves": [(name, figure) for name, r in records.items() if (figure := _curve(r, name))],
    }


def pretraining_table(scores: Scores, details: Mapping[str, ReportedVariant]) -> Table | None:
    """Every pretrained variant against the same variant without it; None without any."""
    metric = task_display.display_for(scores).metrics[scores["primary"]]
    rows = []
    for name, variant in details.items():
        record = variant.get("pretraining")
        if record is None:
            continue
        difference, comparison = difference_from(scores, name, variant.get("without_pretraining"))
        rows.append(
            (
                name,
                [
                    Cell(record["source"], is_text=True),
                    count_cell(record["texts"]),
                    count_cell(record["tokens"]),
                    Cell(significant(record["perplexity_before"])),
                    Cell(significant(record["perplexity_after"])),
                    Cell(variant.get("without_pretraining") or MISSING, is_text=True),
                    Cell(MISSING)
                    if difference is None
                    else Cell(
                        format_change(difference["value"], metric.form),
                        signed_interval(difference, metric.form),
                    ),
                    Cell(p_value(comparison["p_holm"] if comparison else None)),
                ],
            )
        )
    if not rows:
        return None
    return Table(
        "pretraining-table",
        "Pretraining",
        f"{metric.title[:1].upper()}{metric.title[1:]} of the pretrained variant minus that of the "
        "same variant without pretraining, on the same test rows; intervals and p-values are "
        "adjusted as in the comparisons. Perplexity per token on texts of validation rows, before "
        f"and after pretraining; {percent(scores['confidence'], 0)} intervals.",
        ["variant", "texts of", "texts", "tokens", "perplexity before", "after", "without",
         "difference", "p"],
        rows,
    )  # fmt: skip


def _sentence(scores: Scores, name: str, variant: ReportedVariant) -> str:
    """Whether pretraining helped beyond tuning."""
    without = variant.get("without_pretraining")
    if without is None:
        return (
            f"{name} has no counterpart without pretraining in this study, so what pretraining "
            "added is unknown; add the same variant without pretrain."
        )
    effect, figures = step_effect(scores, name, without)
    if effect is None:
        return f"{name} and {without} were not compared."
    if effect == "not shown":
        return (
            f"{name} cannot be told apart from {without}, the same without pretraining: {figures}."
        )
    return f"Pretraining {effect} {name} against {without}: {figures}."


def _curve(record: PretrainingRecord, name: str) -> Markup | None:
    history = [entry for entry in record["log_history"] if entry.get("step") is not None]
    train = [(float(e["step"]), e["loss"]) for e in history if e.get("loss") is not None]
    held_out = [(float(e["step"]), e["eval_loss"]) for e in history if "eval_loss" in e]
    if len(train) + len(held_out) < 2:
        return None
    return training_figures.learning_curves(train, held_out, f"the pretraining of {name}")
