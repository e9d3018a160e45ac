"""Training in the report: loss, accuracy and macro F1 by step."""

from __future__ import annotations

import re
from typing import Any

from prooftune.report.curves import training_curves


def details(history: list[dict[str, Any]]) -> Any:
    return {"training": {"log_history": history}}


HISTORY: list[dict[str, Any]] = [
    {"step": 5, "loss": 1.0},
    {"step": 5, "eval_loss": 0.8, "eval_accuracy": 0.5, "eval_macro_f1": 0.4},
    {"step": 10, "eval_loss": 0.6, "eval_accuracy": 0.75, "eval_macro_f1": 0.7},
    {"step": 10, "train_runtime": 3.0},
]


def test_quality_is_taken_from_the_log_by_step() -> None:
    shown = training_curves("tuned", details(HISTORY), None, "accuracy")
    assert shown["quality"] == {"accuracy": {5: 0.5, 10: 0.75}, "macro F1": {5: 0.4, 10: 0.7}}
    assert shown["validation"] == [(5, 0.8), (10, 0.6)]


def test_every_value_is_a_labelled_dot_and_higher_is_higher() -> None:
    figure = str(training_curves("tuned", details(HISTORY), None, "accuracy")["quality_curves"])
    for title, step, value in (("accuracy", 5, "50.0%"), ("macro F1", 10, "70.0%")):
        assert f"{title}, step {step}: {value}" in figure
    heights = [float(cy) for cy in re.findall(r'class="dot after"[^>]*?cy="([\d.]+)"', figure)] or [
        float(cy) for cy in re.findall(r'cy="([\d.]+)"[^>]*?class="dot after"', figure)
    ]
    assert len(heights) == 2 and heights[0] > heights[1]  # the axis of SVG points down


def test_runs_of_earlier_releases_have_no_quality() -> None:
    shown = training_curves("tuned", details([{"step": 5, "eval_loss": 0.8}]), None, "accuracy")
    assert shown["quality"] == {} and shown["quality_curves"] is None
