"""What a further step of training (pretraining, reward, preference) gained, by the paired test."""

from __future__ import annotations

from typing import Literal

from prooftune.evaluation.score_types import Figure, Scores
from prooftune.evaluation.score_types.study import Comparison, metric_difference
from prooftune.report import task_display
from prooftune.report.format import format_change, p_relation, signed_interval

Effect = Literal["helped", "harmed", "not shown"]


def step_effect(scores: Scores, name: str, without: str) -> tuple[Effect | None, str]:
    """Whether a step helped, and the difference in the primary metric with its interval and p.

    Args:
        scores: of the study.
        name: the variant with the step.
        without: the variant without it.

    Returns:
        (None, "") where the two were not compared.
    """
    difference, comparison = difference_from(scores, name, without)
    if difference is None or difference["value"] is None or comparison is None:
        return None, ""
    metric = task_display.display_for(scores).metrics[scores["primary"]]
    figures = (
        f"{metric.title} {format_change(difference['value'], metric.form)} "
        f"({signed_interval(difference, metric.form)}), p {p_relation(comparison['p_holm'])}"
    )
    if not comparison["significant"]:
        return "not shown", figures
    return "helped" if difference["value"] > 0 else "harmed", figures


def difference_from(
    scores: Scores, name: str, without: str | None
) -> tuple[Figure | None, Comparison | None]:
    """The primary metric of a variant minus that of the one without the step, and their comparison;
    None where they were not compared."""
    for row in scores["comparisons"]:
        if without is None or {row["a"], row["b"]} != {name, without}:
            continue
        difference = metric_difference(row, scores["primary"])
        if difference is None or row["a"] == name:
            return difference, row
        value, low, high = difference["value"], difference["low"], difference["high"]
        turned: Figure = {
            "value": None if value is None else -value,
            "low": None if high is None else -high,
            "high": None if low is None else -low,
        }
        return turned, row
    return None, None
