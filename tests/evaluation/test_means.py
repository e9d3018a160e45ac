"""Means of scores with intervals that know about groups and about certainty."""

import numpy as np

from prooftune.evaluation.means import mean_figures
from prooftune.evaluation.resampling import groups_of


def test_a_perfect_mean_is_not_certain() -> None:
    figures = mean_figures({"recall": np.ones(20)}, 1000, 0.95, 0)["recall"]
    assert figures["value"] == figures["high"] == 1.0
    assert 0.75 < figures["low"] < 0.95


def test_groups_of_equal_rows_know_no_more_than_one_row_each() -> None:
    scores = np.repeat(np.random.default_rng(0).random(12), 20)
    groups = groups_of((np.arange(240) // 20).tolist())
    rows = mean_figures({"m": scores}, 1000, 0.95, 0)["m"]
    grouped = mean_figures({"m": scores}, 1000, 0.95, 0, groups)["m"]
    assert grouped["high"] - grouped["low"] > 3 * (rows["high"] - rows["low"])
