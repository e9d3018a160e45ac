"""The abstention threshold keeps its promise."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from evaluation.test_calibration import made
from prooftune.evaluation.abstention import (
    abstention,
    guaranteed_threshold,
    least_answers,
    needed_rows,
)
from prooftune.evaluation.metrics import Outcomes
from prooftune.evaluation.resampling import Groups


def hand(confidences: list[float], right: list[bool]) -> Outcomes:
    """Two labels; the first is predicted with the confidences given, and is the target where
    right."""
    p = np.minimum(confidences, 1 - 1e-9)
    targets = np.where(right, 0, 1)
    return Outcomes(targets, np.zeros(len(p), int), np.log(np.stack([p, 1 - p], 1)), 2)


def test_enough_right_answers_make_a_guarantee() -> None:
    """0.9 ** 29 < 0.05: with 29 right answers of 29 an accuracy below 0.9 is ruled out."""
    assert least_answers(0.9, 0.05) == 29
    sure = np.linspace(0.99, 0.6, 29).tolist()
    assert guaranteed_threshold(hand(sure, [True] * 29), 0.9, 0.05) == pytest.approx(0.6)
    assert guaranteed_threshold(hand(sure[1:], [True] * 28), 0.9, 0.05) is None


def test_the_threshold_stops_where_mistakes_begin() -> None:
    sure = np.linspace(0.99, 0.5, 200)
    found = guaranteed_threshold(hand(sure.tolist(), [i < 100 for i in range(200)]), 0.9, 0.05)
    assert found is not None and sure[110] < found < sure[90]


def test_a_threshold_takes_all_of_equal_confidence_or_none() -> None:
    assert (
        guaranteed_threshold(hand([0.9] * 60, [i % 2 == 0 for i in range(60)]), 0.9, 0.05) is None
    )
    assert guaranteed_threshold(hand([0.9] * 60, [True] * 60), 0.9, 0.05) == pytest.approx(0.9)


@pytest.mark.parametrize("n", [60, 200, 1000])
def test_the_target_is_missed_no_more_often_than_said(n: int) -> None:
    """Against the true accuracy above the threshold, from a large sample of the same model."""
    target = 0.8
    large = made(n=100_000, seed=1234)
    order = np.argsort(-large.confidence)
    sure, accuracy = large.confidence[order], np.cumsum(large.correct[order])
    missed, reached = 0, 0
    for seed in range(300):
        threshold = guaranteed_threshold(made(n=n, seed=seed), target, 0.05)
        if threshold is not None:
            above = int(np.searchsorted(-sure, -threshold, side="right"))
            reached += 1
            missed += accuracy[above - 1] / above < target
    assert missed <= (0.05 + 0.02) * 300
    assert reached > 150 or n == 60


def test_the_rows_that_would_be_needed() -> None:
    """All right, but too few: 29 answers would be needed. At chance nothing would help."""
    assert needed_rows(hand([0.9, 0.8, 0.7, 0.6], [True] * 4), 0.9, 0.05) == 29
    assert needed_rows(hand([0.9, 0.8], [False, False]), 0.9, 0.05) is None
    half = hand(np.linspace(1, 0.5, 100).tolist(), [i < 50 or i % 2 == 0 for i in range(100)])
    needed = needed_rows(half, 0.95, 0.05)
    assert needed is not None and 100 < needed < 130, "58 right answers among the surest half"


def test_abstention_is_decided_on_validation_and_measured_on_test() -> None:
    validation = hand(np.linspace(0.99, 0.9, 40).tolist(), [True] * 40)
    test = hand([0.95, 0.92, 0.91, 0.5], [True, True, False, True])
    got: Any = abstention(validation, test, target=0.9, confidence=0.95)
    assert got["reachable"] and got["threshold"] == pytest.approx(0.9)
    assert got["coverage"] == 0.75 and got["answered"] == 3
    assert got["accuracy"]["value"] == pytest.approx(2 / 3)
    assert got["accuracy"]["low"] < 2 / 3 < got["accuracy"]["high"]


def test_abstention_says_when_the_target_is_out_of_reach() -> None:
    few = hand([0.9, 0.8], [True, True])
    got = abstention(few, few, 0.9, 0.95)
    assert got["reachable"] is False and got["needed_rows"] == 29


def test_groups_that_are_right_or_wrong_as_a_whole_guarantee_less() -> None:
    """Two articles of 50 rows, all right, and one with 5 of 10 right: 105 of 110 rows are right,
    but the t-test of three groups cannot exclude an accuracy of 85%."""
    right = [True] * 100 + [True, False] * 5
    rows = hand(np.full(110, 0.9).tolist(), right)
    groups = Groups(np.repeat([0, 1, 2], [50, 50, 10]), 3)
    assert guaranteed_threshold(rows, 0.85, 0.05) == pytest.approx(0.9)
    assert guaranteed_threshold(rows, 0.85, 0.05, groups) is None
    assert guaranteed_threshold(rows, 0.85, 0.05, Groups(np.zeros(110, int), 1)) is None
    surplus = [50 * 0.15, 50 * 0.15, 5 - 0.85 * 10]
    assert stats.ttest_1samp(surplus, 0, alternative="greater").pvalue > 0.05


def test_in_many_equal_groups_nothing_changes() -> None:
    right = [i % 20 != 0 for i in range(400)]
    rows = hand(np.full(400, 0.9).tolist(), right)
    groups = Groups(np.arange(400) // 20, 20)
    assert guaranteed_threshold(rows, 0.9, 0.05, groups) == pytest.approx(0.9)


@pytest.mark.slow
def test_the_target_is_kept_where_groups_differ() -> None:
    """In groups that are easy or hard, rows alone miss the target in some 10% of studies."""
    target, delta, draw = 0.8, 0.05, np.random.default_rng(0)
    sure, accuracy = _above(_in_groups(4000, 50, np.random.default_rng(1))[0])
    missed = {"rows": 0, "groups": 0}
    for _ in range(600):
        validation, groups = _in_groups(15, 20, draw)
        for name, own in (("rows", None), ("groups", groups)):
            threshold = guaranteed_threshold(validation, target, delta, own)
            if threshold is not None:
                above = max(1, int(np.searchsorted(-sure, -threshold, side="right")))
                missed[name] += accuracy[above - 1] < target
    assert missed["groups"] <= (delta + 0.02) * 600 < missed["rows"]


def _in_groups(count: int, size: int, draw: np.random.Generator) -> tuple[Outcomes, Groups]:
    """Rows whose chance of being right also depends on their group."""
    index = np.repeat(np.arange(count), size)
    sure = 0.5 + 0.49 * draw.beta(2, 1.5, size=len(index))
    odds = np.log(sure / (1 - sure)) + draw.normal(size=count)[index]
    right = draw.random(len(index)) < 1 / (1 + np.exp(-odds))
    return hand(sure.tolist(), right.tolist()), Groups(index, count)


def _above(rows: Outcomes) -> tuple[Any, Any]:
    order = np.argsort(-rows.confidence)
    right = np.cumsum(rows.correct[order])
    return rows.confidence[order], right / np.arange(1, len(order) + 1)


def test_the_accuracy_on_test_is_measured_by_groups() -> None:
    validation = hand(np.linspace(0.99, 0.9, 60).tolist(), [True] * 60)
    test = hand([0.95] * 200, [i < 150 for i in range(200)])
    groups = Groups(np.arange(200) // 50, 4)
    alone: Any = abstention(validation, test, 0.9, 0.95)
    grouped: Any = abstention(validation, test, 0.9, 0.95, (None, groups))
    assert alone["accuracy"]["value"] == grouped["accuracy"]["value"] == 0.75
    assert alone["accuracy"]["low"] > 0.68 and grouped["accuracy"]["low"] < 0.4
    assert (alone["grouped"], grouped["grouped"]) == (False, False)
