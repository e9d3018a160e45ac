"""The section on variants that train another one's weights further: whether that helped."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.score_types import Scores
from prooftune.report import task_display
from prooftune.report.format import format_change, p_relation, signed_interval
from prooftune.report.pretraining_section import difference_from
from prooftune.report.types import ReportedVariant

_OBJECTIVES = {"reward": "expected cost (reward)", "preference": "preferences (DPO)"}


def continued_sentences(scores: Scores, details: Mapping[str, ReportedVariant]) -> list[str]:
    """One sentence for each variant that was trained further: whether it helped beyond the variant
    that it continues from; empty without any."""
    return [
        _sentence(scores, name, variant, source)
        for name, variant in details.items()
        if (source := variant.get("continues")) is not None
    ]


def _sentence(scores: Scores, name: str, variant: ReportedVariant, source: str) -> str:
    trained = f"{source} was trained further on {_OBJECTIVES[variant['objective']]} as {name}"
    difference, comparison = difference_from(scores, name, source)
    if difference is None or difference["value"] is None or comparison is None:
        return f"{trained}; the two were not compared."
    metric = task_display.display_for(scores).metrics[scores["primary"]]
    figures = (
        f"{metric.title} {format_change(difference['value'], metric.form)} "
        f"({signed_interval(difference, metric.form)}), p {p_relation(comparison['p_holm'])}"
    )
    if not comparison["significant"]:
        return f"{trained}; that it helps beyond tuning is not shown: {figures}."
    return f"{trained}; it {'helped' if difference['value'] > 0 else 'harmed'}: {figures}."
