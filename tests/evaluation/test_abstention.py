"""The abstention threshold keeps its promise."""

from typing import Any

import numpy as np
import pytest

from evaluation.test_calibration import made
from prooftune.evaluation.abstention import (
    abstention,
    guaranteed_threshold,
    least_answers,
    needed_rows,
)
from prooftune.evaluation.metrics import Outcomes


def hand(confidences: list[float], right: list[bool]) -> Outcomes:
    """Two labels; the first is predicted with the confidences given, and is the target where
    right."""
    p = np.array(confidences)
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
