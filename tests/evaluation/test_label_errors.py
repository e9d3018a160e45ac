"""Confident learning against cleanlab, and bounds of a difference against all labellings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prooftune.evaluation.label_errors import (
    difference_bounds,
    label_quality,
    likely_errors,
    pooled_probabilities,
)
from prooftune.evaluation.metrics import INVALID
from prooftune.evaluation.significance import mcnemar_p


def noisy(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of which a tenth is wrong, which ones, and probabilities that know the truth."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, n)
    wrong = draw.random(n) < 0.1
    targets = np.where(wrong, (truth + draw.integers(1, classes, n)) % classes, truth)
    scores = draw.normal(size=(n, classes))
    scores[np.arange(n), truth] += 3
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return targets, wrong, probabilities


@pytest.mark.parametrize(("n", "classes"), [(60, 2), (400, 3), (900, 7)])
def test_the_flagged_rows_are_those_of_cleanlab(n: int, classes: int) -> None:
    cleanlab_filter = pytest.importorskip("cleanlab.filter")
    targets, wrong, probabilities = noisy(n, classes, classes)
    expected = cleanlab_filter.find_label_issues(
        targets, probabilities, filter_by="confident_learning"
    )
    flagged = likely_errors(targets, probabilities)
    np.testing.assert_array_equal(flagged, expected)
    assert wrong[flagged].mean() > 0.6 and flagged[wrong].mean() > 0.6


def test_quality_is_cleanlabs_self_confidence() -> None:
    rank = pytest.importorskip("cleanlab.rank")
    targets, wrong, probabilities = noisy(300, 4, 0)
    expected = rank.get_label_quality_scores(targets, probabilities, method="self_confidence")
    quality = label_quality(targets, probabilities)
    np.testing.assert_allclose(quality, expected)
    assert quality[wrong].mean() < 0.3 < quality[~wrong].mean()


def test_a_label_without_rows_is_never_confident() -> None:
    targets = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.1, 0.2, 0.7], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.9, 0.05, 0.05]])
    np.testing.assert_array_equal(
        likely_errors(targets, probabilities), [False, False, False, True]
    )


def test_models_are_averaged() -> None:
    pooled = pooled_probabilities([np.array([[0.2, 0.8]]), np.array([[0.6, 0.4]])])
    np.testing.assert_allclose(pooled, [[0.4, 0.6]])


@pytest.mark.parametrize("seed", range(6))
def test_bounds_are_those_of_all_labellings(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n, labels = 12, 3
    targets = draw.integers(0, labels, n)
    first, second = draw.integers(-1, labels, n), draw.integers(0, labels, n)
    assert (first == INVALID).any() or seed
    flagged = np.zeros(n, bool)
    flagged[draw.choice(n, 5, replace=False)] = True
    suggested = (targets + 1) % labels
    bounds = difference_bounds(first, second, targets, suggested, flagged)

    def difference(true: np.ndarray) -> tuple[float, float]:
        only_first = int(((first == true) & (second != true)).sum())
        only_second = int(((second == true) & (first != true)).sum())
        return (only_first - only_second) / n, mcnemar_p(only_first, only_second)

    found = []
    for choice in itertools.product(range(labels), repeat=5):
        true = targets.copy()
        true[flagged] = choice
        found.append(difference(true)[0])
    assert bounds.low == pytest.approx(min(found)) and bounds.high == pytest.approx(max(found))
    assert bounds.value == pytest.approx(difference(targets)[0])
    as_suggested = difference(np.where(flagged, suggested, targets))
    assert (bounds.suggested, bounds.p_suggested) == pytest.approx(as_suggested)


def test_rows_on_which_both_variants_agree_change_nothing() -> None:
    same = np.array([0, 1, 1, 0])
    bounds = difference_bounds(
        same, same, np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), np.ones(4, bool)
    )
    assert bounds.disputed == 0 and (bounds.low, bounds.high) == (0.0, 0.0)
