"""Tables by language."""

from __future__ import annotations

from typing import Any, cast

import pytest

from prooftune.evaluation.score_types import Scores
from prooftune.report.languages_section import left_out_table


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
