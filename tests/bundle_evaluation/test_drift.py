"""Drift tests against scipy and statsmodels, and what a drifted file is reported as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact, multivariate_hypergeom
from statsmodels.stats.proportion import confint_proportions_2indep

from prooftune.bundle_evaluation.drift import (
    COMPARED,
    compare_proportions,
    label_set_shift,
    label_shift,
    metric_changes,
    mover_difference,
)
from prooftune.bundle_evaluation.sentences import verdict_sentence
from prooftune.evaluation.score_types import Estimate
from prooftune.recipe.metrics import PRIMARY_METRICS
from prooftune.report.task_display import TASKS


@pytest.mark.parametrize("counts", [(45, 100, 180, 300), (70, 100, 140, 200), (500, 900, 80, 120)])
def test_proportions_are_compared_by_fisher_and_newcombe(counts: tuple[int, int, int, int]) -> None:
    hits, n, other_hits, other_n = counts
    comparison = compare_proportions(*counts, 0.95)
    low, high = confint_proportions_2indep(hits, n, other_hits, other_n, method="newcomb")
    expected = fisher_exact([[hits, n - hits], [other_hits, other_n - other_hits]])[1]
    assert comparison["p"] == pytest.approx(expected)
    assert comparison["difference"]["value"] == pytest.approx(hits / n - other_hits / other_n)
    assert comparison["difference"]["low"] == pytest.approx(low)
    assert comparison["difference"]["high"] == pytest.approx(high)
    assert comparison["significant"] == (expected < 0.05)


def test_interval_and_test_of_proportions_agree() -> None:
    for hits in range(0, 41, 2):
        comparison = compare_proportions(hits, 40, 30, 60, 0.95)
        difference = comparison["difference"]
        assert comparison["significant"] is not (difference["low"] <= 0 <= difference["high"])


def test_mover_gives_the_root_of_summed_squares_for_symmetric_intervals() -> None:
    first: Estimate = {"value": 0.5, "low": 0.2, "high": 0.8}
    second: Estimate = {"value": 0.9, "low": 0.5, "high": 1.3}
    assert mover_difference(first, second) == pytest.approx(
        {"value": -0.4, "low": -0.9, "high": 0.1}
    )


def test_label_shares_are_tested_by_chi_squared() -> None:
    now, study = {"a": 30, "b": 50, "c": 20}, {"a": 100, "b": 100, "c": 100}
    shift = label_shift(now, study, 0.95)
    assert shift is not None
    expected = chi2_contingency([[30, 50, 20], [100, 100, 100]], correction=False)[1]
    assert shift["p"] == pytest.approx(expected) and shift["significant"]
    assert shift["moved"] == pytest.approx((abs(0.3 - 1 / 3) + 0.5 - 1 / 3 + 1 / 3 - 0.2) / 2)
    assert shift["shares"]["b"]["change"] == pytest.approx(0.5 - 1 / 3)


def test_two_labels_are_tested_exactly() -> None:
    shift = label_shift({"a": 1, "b": 5, "c": 0}, {"a": 5, "b": 1}, 0.95)
    assert shift is not None
    assert shift["p"] == pytest.approx(fisher_exact([[1, 5], [5, 1]])[1])


def test_rare_labels_are_tested_by_permutation() -> None:
    now, study = [9, 4, 1], [5, 8, 3]
    shift = label_shift(
        dict(zip("abc", now, strict=True)), dict(zip("abc", study, strict=True)), 0.95
    )
    # The exact p-value: all tables with these margins, by their probability.
    totals, n = np.add(now, study), sum(now)
    expected = np.outer([sum(now), sum(study)], totals) / totals.sum()
    law = multivariate_hypergeom(totals, n)
    exact, observed = 0.0, 0.0
    tables = [(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]

    def statistic(first: Sequence[int]) -> float:
        return float((((np.array([first, totals - first]) - expected) ** 2) / expected).sum())

    observed = statistic(now)
    exact = sum(
        float(law.pmf(t)) for t in tables if all(t <= totals) and statistic(t) > observed - 1e-9
    )
    assert shift is not None and shift["p"] == pytest.approx(exact, abs=0.02)
    assert 0.05 < exact < 0.95


def test_without_counts_of_the_study_there_is_no_label_test() -> None:
    assert label_shift({"a": 1, "b": 2}, None, 0.95) is None
    single = label_shift({"a": 3, "b": 0}, {"a": 5}, 0.95)
    assert single is not None and single["p"] is None and not single["significant"]


def test_grouped_rows_are_compared_by_their_intervals() -> None:
    accuracy: Estimate = {"value": 0.6, "low": 0.4, "high": 0.8}
    study: Any = {"n": 100, "metrics": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}}
    scores: Any = {"n": 100, "confidence": 0.95, "groups": None, "primary": "accuracy"}
    alone = metric_changes(scores, {"accuracy": accuracy}, study)["accuracy"]
    in_groups: Any = {**scores, "groups": {"count": 9}}
    grouped = metric_changes(in_groups, {"accuracy": accuracy}, study)
    # 60 of 100 against 80 of 100 differ as single rows, but not with intervals of few groups.
    assert alone["significant"] and alone["p"] == pytest.approx(
        fisher_exact([[60, 40], [80, 20]])[1]
    )
    assert grouped["accuracy"]["p"] is None and not grouped["accuracy"]["significant"]


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_the_table_is_compared_with_the_study(task: Any) -> None:
    figure: Estimate = {"value": 0.6, "low": 0.5, "high": 0.7}
    shown = TASKS[task].terminal_metrics
    for primary in PRIMARY_METRICS[task]:
        figures = dict.fromkeys((primary, *shown), figure)
        study: Any = {"n": 100, "metrics": figures}
        scores: Any = {"n": 100, "confidence": 0.95, "groups": None, "primary": primary}
        assert set(metric_changes(scores, figures, study)) == {primary, *shown}
    assert set(shown) <= set(COMPARED)


def test_the_log_loss_is_compared_after_the_temperature() -> None:
    figure: Estimate = {"value": 0.6, "low": 0.5, "high": 0.7}
    scaled: Estimate = {"value": 0.4, "low": 0.3, "high": 0.5}
    study: Any = {"n": 100, "metrics": {"log_loss": figure}}
    scores: Any = {"n": 100, "confidence": 0.95, "groups": None, "primary": "accuracy"}
    now = {"log_loss": figure}
    for temperature in (None, 1.0):
        assert metric_changes(scores, now, study, temperature)["log_loss"]["study"] == figure
    assert metric_changes(scores, now, study, 2.0) == {}
    study["scaled_log_loss"] = scaled
    assert metric_changes(scores, now, study, 2.0)["log_loss"]["study"] == scaled


def test_shares_of_several_labels_are_those_of_texts() -> None:
    shift = label_set_shift({"a": 3, "b": 1, "c": 0}, 4, {"a": 5, "b": 5}, 10)
    assert shift is not None and shift["p"] is None and not shift["significant"]
    assert shift["shares"]["a"] == {"study": 0.5, "now": 0.75, "change": 0.25}
    assert shift["shares"]["c"]["study"] == 0
    assert label_set_shift({"a": 3}, 4, None, 10) is None


@pytest.mark.parametrize(
    ("primary", "first", "second"),
    [
        ("quadratic_kappa", "Quadratic weighted kappa is 0.600 (95% interval 0.400", "(−0.200,"),
        ("macro_f1", "Macro F1 is 60.0% (95% interval 40.0", "(−20.0 points,"),
    ],
)
def test_sentences_have_the_form_of_the_tables(primary: str, first: str, second: str) -> None:
    now: Estimate = {"value": 0.6, "low": 0.4, "high": 0.8}
    before: Estimate = {"value": 0.8, "low": 0.7, "high": 0.9}
    scores: Any = {"n": 99, "confidence": 0.95, "groups": None, "primary": primary}
    study: Any = {"n": 100, "metrics": {primary: before}}
    facts: Any = {
        **scores,
        "task": "classification",
        "labels": ["a"],
        "metrics": {primary: now},
        "drift": {
            "metrics": metric_changes(scores, {primary: now}, study),
            "labels": None,
            "lengths": None,
        },
        "slices": {},
        "comparison": None,
    }
    sentence = verdict_sentence(facts)
    assert first in sentence and second in sentence
