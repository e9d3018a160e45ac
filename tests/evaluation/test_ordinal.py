"""Ordinal labels: quadratic weighted kappa and mean absolute error against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from prooftune.evaluation.metrics import INVALID, Outcomes, columns, measure, rates, sums
from prooftune.evaluation.primary import classification_primary
from prooftune.evaluation.resampling import label_prior
from prooftune.evaluation.score_types import defined
from prooftune.evaluation.scores import score
from prooftune.evaluation.sentences import DECIMAL_METRICS, points
from prooftune.recipe import Evaluation
from prooftune.types import Example, Prediction, Study, VariantResult

RATINGS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(pairs=PAIRS)
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = np.array(pairs).T
    values, _ = measure(Outcomes(targets, predicted, None, 5, RATINGS))
    assert values["mae"] == pytest.approx(mean_absolute_error(targets, predicted))
    assert values["mae_score"] == pytest.approx(1 - values["mae"] / 4)
    with np.errstate(invalid="ignore"):
        expected = cohen_kappa_score(targets, predicted, labels=range(5), weights="quadratic")
    assert values["quadratic_kappa"] == pytest.approx(np.nan_to_num(expected))


def test_distances_follow_the_scale_and_not_the_place() -> None:
    """Nobody gave 3 stars: from 2 to 4 is as far as from 1 to 3."""
    scale = np.array([1.0, 2.0, 4.0, 5.0])
    targets, predicted = np.array([0, 1, 2, 3, 1, 2]), np.array([0, 2, 2, 3, 1, 3])
    values, _ = measure(Outcomes(targets, predicted, None, 4, scale))
    names = scale.astype(int)
    assert values["mae"] == pytest.approx(3 / 6)
    assert values["quadratic_kappa"] == pytest.approx(
        cohen_kappa_score(names[targets], names[predicted], labels=range(1, 6), weights="quadratic")
    )


def test_an_invalid_output_is_as_wrong_as_a_label_can_be() -> None:
    worst = Outcomes(np.array([0, 1, 4]), np.array([4, 4, 0]), None, 5, RATINGS)
    invalid = Outcomes(np.array([0, 1, 4]), np.full(3, INVALID), None, 5, RATINGS)
    assert measure(invalid)[0]["mae"] == measure(worst)[0]["mae"] == pytest.approx(11 / 3)
    assert measure(invalid)[0]["quadratic_kappa"] == pytest.approx(0)


def test_names_have_no_ordinal_metrics() -> None:
    values, _ = measure(Outcomes(np.array([0, 1]), np.array([0, 1]), None, 2))
    assert not {"mae", "mae_score", "quadratic_kappa"} & values.keys()


def test_columns_with_probabilities_keep_every_metric() -> None:
    draw = np.random.default_rng(1)
    targets, scores = draw.integers(0, 5, 50), draw.normal(size=(50, 5))
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    named = Outcomes(targets, log_probs.argmax(1), log_probs, 5)
    ordinal = Outcomes(targets, log_probs.argmax(1), log_probs, 5, RATINGS)
    expected, values = measure(named)[0], measure(ordinal)[0]
    assert {k: values[k] for k in expected} == pytest.approx(expected)


def test_pseudo_examples_have_the_mean_error_of_a_wrong_label() -> None:
    outcomes = Outcomes(np.array([0]), np.array([0]), None, 5, RATINGS)
    width = columns(outcomes).shape[1]
    prior = label_prior(5, width, 4000, 0, 0, RATINGS)
    total = sums(prior, 5, RATINGS)
    wrong = (total.targets - total.hits).sum(0)
    distances = np.abs(RATINGS[:, None] - RATINGS)
    assert total.absolute_error is not None and total.squared_error is not None
    assert total.absolute_error.sum() == pytest.approx((wrong * distances.sum(1) / 4).sum())
    assert total.squared_error.sum() == pytest.approx((wrong * (distances**2).sum(1) / 4).sum())
    assert np.isfinite(rates(total)["quadratic_kappa"]).all()


def rated(n: int, seed: int, spreads: dict[str, float]) -> tuple[Study, list[VariantResult]]:
    """Ratings, and variants whose errors have these standard deviations."""
    draw = np.random.default_rng(seed)
    targets = draw.integers(1, 6, n)
    examples = [Example(str(i), {"text": "t"}, str(t)) for i, t in enumerate(targets)]
    study = Study([], [], examples, list("12345"), scale=RATINGS.tolist())
    results = []
    for name, spread in spreads.items():
        noisy = np.clip(np.rint(targets + draw.normal(0, spread, n)), 1, 5).astype(int)
        predictions = [Prediction(str(i), str(p)) for i, p in enumerate(noisy)]
        results.append(VariantResult(name, name, predictions, [], {}, Path()))
    return study, results


def test_scores_judge_by_kappa_or_by_mae() -> None:
    study, results = rated(200, 0, {"tuned": 0.6, "tfidf": 1.6})
    for named, primary in ((None, "quadratic_kappa"), ("mae", "mae_score"), ("mcc", "mcc")):
        settings = Evaluation(primary=named, resamples=200)
        assert classification_primary(study, settings) == (primary, [])
        scores = score(study, results, settings, 0)
        assert scores["primary"] == primary and scores["verdict"]["outcome"] == "wins"
        metrics = scores["variants"]["tuned"]["metrics"]
        targets = [int(str(e.target)) for e in study.test]
        outputs = [int(p.output) for p in results[0].test]
        expected = mean_absolute_error(targets, outputs)
        assert defined(metrics["mae"])["value"] == pytest.approx(expected, rel=1e-5)
        row: Any = scores["comparisons"][0]
        assert row["mae"]["value"] < row["mae"]["high"] < 0 < row["quadratic_kappa"]["low"]
        # As in the tables: kappa and correlations are no shares, and have no points.
        sentence, value = scores["verdict"]["sentence"], defined(metrics[primary])["value"]
        decimals = primary in DECIMAL_METRICS
        assert (
            f" {value:.3f} (95%" in sentence if decimals else f" {100 * value:.1f} (95%" in sentence
        )
        assert ("points" in sentence) is not decimals


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["quadratic_kappa", "mae"])
def test_intervals_contain_the_true_value(metric: str) -> None:
    """Of 150 samples of 100 examples, 95% intervals miss the value of a large sample at most as
    often as chance allows (11 misses are the 99% quantile of 150 · 5%, 15 leave room for the
    clipped tails of small samples)."""
    study, [large] = rated(200_000, 1, {"tuned": 0.9})
    targets = np.array([int(str(e.target)) for e in study.test])
    outputs = np.array([int(p.output) for p in large.test])
    true = {
        "mae": mean_absolute_error(targets, outputs),
        "quadratic_kappa": cohen_kappa_score(targets, outputs, weights="quadratic"),
    }[metric]
    missed = 0
    for seed in range(150):
        sample, results = rated(100, seed + 10, {"tuned": 0.9})
        settings = Evaluation(resamples=300)
        figure = defined(
            score(sample, results, settings, 0)["variants"]["tuned"]["metrics"][metric]
        )
        missed += not figure["low"] <= true <= figure["high"]
    assert missed <= 15


def test_negative_coefficients_have_a_minus_sign_in_sentences() -> None:
    assert [points(value) for value in (-0.087, 0.004, 0.4282)] == ["−8.7", "0.4", "42.8"]
