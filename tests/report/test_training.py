"""Training in the report: loss and quality by step."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from prooftune.recipe.metrics import QUALITY_METRICS
from prooftune.report.build import render_page
from prooftune.report.curves import training_curves
from report.conftest import facts_of
from report.reading import read


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


@pytest.mark.parametrize("task", QUALITY_METRICS)
def test_every_metric_of_a_training_is_shown_the_primary_one_first(task: Any) -> None:
    logged = [
        {"step": 5 * i, "eval_loss": 1 / i, **{f"eval_{m}": i / 4 for m in QUALITY_METRICS[task]}}
        for i in (1, 2)
    ]
    shown = training_curves("tuned", details(logged), None, "accuracy")["quality"]
    titles = {
        "classification": ["accuracy", "macro F1"],
        "multilabel": ["micro F1", "macro F1"],
    }.get(task, ["F1", "exact match"])
    assert list(shown) == titles
    assert all(points == {5: 0.25, 10: 0.5} for points in shown.values())


def test_the_page_shows_micro_f1_of_several_labels() -> None:
    facts: Any = facts_of("usual")
    text = json.dumps(facts["variants"]).replace("eval_accuracy", "eval_micro_f1")
    facts = {**facts, "variants": json.loads(text)}
    page = render_page(facts)
    headings = [cell.text for cell in read(page).all("th")]
    start = headings.index("validation loss (nats)")
    assert headings[start + 1 : start + 3] == ["micro F1", "macro F1"]
    assert "micro F1 on validation rows" in page and "micro F1, step 50: " in page
