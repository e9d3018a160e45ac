"""Tables by language."""

from __future__ import annotations

from typing import Any, cast

import pytest

from prooftune.evaluation.score_types import Scores
from prooftune.report.languages_section import left_out_table
from prooftune.report.terminal import by_language


@pytest.mark.parametrize(
    ("primary", "value", "interval"),
    [("accuracy", "+3.4", "+1.0 to +5.0"), ("mcc", "+0.034", "+0.010 to +0.050")],
)
def test_a_difference_and_its_interval_are_in_the_units_of_the_metric(
    primary: str, value: str, interval: str
) -> None:
    row: dict[str, Any] = {"language": "swa", "with": "all", "without": "rest", "n": 100, "p": 0.01}
    row["difference"] = {"value": 0.034, "low": 0.01, "high": 0.05}
    scores = {"task": "classification", "primary": primary, "groups": None}
    table = left_out_table(cast("Scores", {**scores, "languages": {"rows": {}, "left_out": [row]}}))
    assert table is not None
    [(_, cells)] = table.rows
    assert (cells[3].text, cells[3].interval) == (value, interval)


def test_the_terminal_has_the_worst_languages_first() -> None:
    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    values = {"swa": 0.8, "hau": 0.6, "yor": 0.9, "ibo": 0.7, "amh": 0.5}
    rows = {
        language: {"train": 9, "test": 9, "variants": {"tuned": {"accuracy": figure(value)}}}
        for language, value in values.items()
    }
    scores: dict[str, Any] = {"task": "classification", "primary": "accuracy", "groups": None}
    scores["verdict"] = {"best_tuned": "tuned", "winner": "tfidf"}
    assert by_language(cast("Scores", scores)) == ""
    scores["languages"] = {"rows": rows, "left_out": []}
    assert by_language(cast("Scores", scores)) == (
        "tuned, accuracy by language: amh 50.0% (40.0–60.0), hau 60.0% (50.0–70.0), ibo 70.0% "
        "(60.0–80.0), swa 80.0% (70.0–90.0) and 1 more."
    )
