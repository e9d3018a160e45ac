"""Metrics of label sets against scikit-learn, thresholds, and paired tests against enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from prooftune.errors import Failure
from prooftune.evaluation.multilabel.metrics import by_label, columns, label_matrix, measure, rates
from prooftune.evaluation.multilabel.scores import score_label_sets
from prooftune.evaluation.multilabel.thresholds import (
    at_threshold,
    choose_threshold,
    has_threshold,
    label_sets,
)
from prooftune.evaluation.resampling import resample, resample_counts
from prooftune.evaluation.score_types import defined
from prooftune.recipe import Evaluation
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.label_sets import chosen_labels, label_set_text, parse_label_set, set_f1

LABELS = ["a", "b", "c"]


def drawn(n: int, seed: int, share: float = 0.4, labels: int = 3) -> Any:
    return np.random.default_rng(seed).random((n, labels)) < share


matrices = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=n, max_size=n),) * 2
    )
)


@pytest.mark.slow
@given(matrices)
@settings(max_examples=60, deadline=None)
def test_metrics_are_those_of_scikit_learn(pair: Any) -> None:
    targets, predicted = (np.array(side, dtype=bool) for side in pair)
    found = measure(targets, predicted)
    occurs = np.flatnonzero(targets.any(axis=0) | predicted.any(axis=0)).tolist()
    expected = {
        "subset_accuracy": sk.accuracy_score(targets, predicted),
        "hamming_loss": sk.hamming_loss(targets, predicted),
        # `accuracy_score` of scikit-learn calls two empty sets equal, and so does `zero_division`.
        "samples_f1": sk.f1_score(targets, predicted, average="samples", zero_division=1.0),
    }
    for name, function in (
        ("f1", sk.f1_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
    ):
        expected[f"micro_{name}"] = function(targets, predicted, average="micro", zero_division=0)
        expected[f"macro_{name}"] = (
            function(targets, predicted, average="macro", labels=occurs, zero_division=0)
            if occurs
            else 0.0
        )
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_figures_of_labels_are_those_of_scikit_learn() -> None:
    targets, predicted = drawn(40, 0), drawn(40, 1)
    found = by_label(columns(targets, predicted).sum(axis=0))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(targets, predicted)
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(found[name], expected)


def test_metrics_of_resamples_are_those_of_the_drawn_rows() -> None:
    targets, predicted = drawn(15, 2), drawn(15, 3)
    [part] = resample([columns(targets, predicted)], 20, 7)
    micro = rates(part.bootstrap)["micro_f1"]
    for counts, value in zip(resample_counts(15, 20, 7).astype(int), micro, strict=True):
        rows = np.repeat(np.arange(15), counts)
        assert value == pytest.approx(
            sk.f1_score(targets[rows], predicted[rows], average="micro", zero_division=0)
        )


@given(st.lists(st.sampled_from(["b", "a", 'c"d', "ä|,"]), max_size=6))
@settings(max_examples=30, deadline=None)
def test_equal_sets_are_equal_texts(labels: list[str]) -> None:
    text = label_set_text(labels)
    assert parse_label_set(text) == tuple(sorted(set(labels)))
    assert label_set_text(reversed(labels)) == text


def test_f1_of_two_sets() -> None:
    assert set_f1([], []) == 1 and set_f1(["a"], []) == 0 and set_f1([], ["a"]) == 0
    assert set_f1(["a", "b"], ["b", "c"]) == pytest.approx(1 / 2)


def test_the_threshold_is_the_best_on_the_rows_that_are_given() -> None:
    targets = drawn(60, 4)
    noise = np.random.default_rng(5).normal(0, 0.7, targets.shape)
    # Probabilities that are too low throughout: 0.5 would miss most labels.
    log_probs = -np.logaddexp(0, -(2.0 * targets - 2.5 + noise))
    chosen = choose_threshold(log_probs, targets, "micro_f1")
    scored = {
        t: sk.f1_score(targets, np.exp(log_probs) >= t, average="micro", zero_division=0)
        for t in np.arange(0.02, 0.99, 0.02)
    }
    assert chosen < 0.4
    best = sk.f1_score(targets, np.exp(log_probs) >= chosen, average="micro")
    assert best == pytest.approx(max(scored.values()))


def test_without_errors_the_threshold_stays_near_one_half() -> None:
    targets = drawn(20, 6)
    assert choose_threshold(np.log(np.where(targets, 0.99, 0.01)), targets, "micro_f1") == 0.5


def examples_of(targets: Any, prefix: str) -> list[Example]:
    return [
        Example(f"{prefix}{i}", {"text": "x"}, label_set_text(np.array(LABELS)[row].tolist()))
        for i, row in enumerate(targets)
    ]


def predictions_of(rows: list[Example], probabilities: Any) -> list[Prediction]:
    return [
        Prediction(e.id, chosen_labels(np.log(p).tolist(), LABELS), log_probs=tuple(np.log(p)))
        for e, p in zip(rows, probabilities, strict=True)
    ]


def study_of(n: int = 60) -> tuple[Study, list[VariantResult]]:
    """A study with a good and a bad variant; the probabilities of the good one are all low."""
    rows = {"test": drawn(n, 10), "validation": drawn(n, 11)}
    examples = {name: examples_of(targets, name) for name, targets in rows.items()}
    study = Study([], examples["validation"], examples["test"], LABELS)
    noise = np.random.default_rng(12)
    probabilities = {
        "good": {
            k: np.clip(0.3 * t + noise.uniform(0, 0.15, t.shape), 0, 1) for k, t in rows.items()
        },
        "bad": {k: noise.uniform(0.01, 1, t.shape) for k, t in rows.items()},
    }
    results = [
        VariantResult(
            name,
            "tfidf",
            predictions_of(examples["test"], of["test"]),
            predictions_of(examples["validation"], of["validation"]),
            {},
            Path("none"),
        )
        for name, of in probabilities.items()
    ]
    return study, results


def test_a_study_is_scored_at_thresholds_of_validation_rows() -> None:
    study, results = study_of()
    scores = score_label_sets(study, results, Evaluation(resamples=200), 0)
    good = scores["variants"]["good"]
    threshold = good["threshold"]
    assert threshold is not None and threshold < 0.35
    targets = label_matrix((e.targets for e in study.test), LABELS)
    predicted = np.exp([p.log_probs for p in results[0].test]) >= threshold
    assert defined(good["metrics"]["micro_f1"])["value"] == pytest.approx(
        sk.f1_score(targets, predicted, average="micro"), rel=1e-5
    )
    assert scores["primary"] == "micro_f1" and scores["task"] == "multilabel"
    assert scores["support"] == dict(zip(LABELS, targets.sum(axis=0).tolist(), strict=True))
    assert scores["cardinality"] == pytest.approx(targets.sum() / len(targets), rel=1e-5)
    for label in good["per_class"]:
        figure = defined(label["f1"])
        assert figure["low"] <= figure["value"] <= figure["high"]
    [comparison] = scores["comparisons"]
    assert comparison["significant"] and comparison["p"] < 0.01
    # The same predictions on changed test targets keep the threshold: it does not read them.
    other = Study([], study.validation, examples_of(drawn(60, 99), "test"), LABELS)
    again = score_label_sets(other, results, Evaluation(resamples=100), 0)
    assert again["variants"]["good"]["threshold"] == threshold


def test_the_swap_test_of_micro_f1_is_that_of_all_swaps() -> None:
    study, results = study_of(8)
    plain = [
        replace(r, test=[Prediction(p.id, p.output) for p in r.test], validation=[])
        for r in results
    ]
    [comparison] = score_label_sets(study, plain, Evaluation(resamples=100), 0)["comparisons"]
    targets = label_matrix((e.targets for e in study.test), LABELS)
    tables = [
        columns(targets, label_matrix((parse_label_set(p.output) for p in r.test), LABELS))
        for r in plain
    ]

    def difference(swaps: tuple[bool, ...]) -> float:
        mask = np.array(swaps)[:, None]
        first = np.where(mask, tables[1], tables[0]).sum(axis=0)
        second = np.where(mask, tables[0], tables[1]).sum(axis=0)
        return float(rates(first)["micro_f1"] - rates(second)["micro_f1"])

    observed = abs(difference((False,) * 8))
    everything = [abs(difference(swaps)) for swaps in product((False, True), repeat=8)]
    expected = np.mean([value >= observed - 1e-12 for value in everything])
    assert comparison["p"] == pytest.approx(expected, abs=0.03)


def test_variants_without_probabilities_keep_their_own_sets() -> None:
    study, results = study_of(10)
    plain = [Prediction(p.id, '["b"]') for p in results[0].test]
    chosen_sets = label_sets(study, replace(results[0], test=plain, validation=[]), Evaluation())
    assert chosen_sets.threshold is None and chosen_sets.quality is None
    assert chosen_sets.test.tolist() == [[False, True, False]] * 10


def test_a_training_has_the_label_sets_of_its_threshold() -> None:
    study, [good, _] = study_of()
    chosen_sets = label_sets(study, good, Evaluation())
    targets = label_matrix((e.targets for e in study.validation), LABELS)
    held_out = np.exp([p.log_probs for p in good.validation])
    assert chosen_sets.threshold == choose_threshold(np.log(held_out), targets, "micro_f1")
    test = np.exp([p.log_probs for p in good.test]) >= chosen_sets.threshold
    np.testing.assert_array_equal(chosen_sets.test, test)
    given = at_threshold(good.test, LABELS, chosen_sets.threshold)
    assert chosen_sets.outputs == given and given != good.test
    assert at_threshold(good.test, LABELS, None) == good.test
    assert chosen_sets.quality == pytest.approx(
        sk.f1_score(targets, held_out >= chosen_sets.threshold, average="micro")
    )


def test_the_recipe_names_the_metric_of_the_threshold() -> None:
    study, [_, bad] = study_of()
    targets = label_matrix((e.targets for e in study.validation), LABELS)
    log_probs = np.array([p.log_probs for p in bad.validation])
    for primary in ("micro_f1", "subset_accuracy"):
        threshold = label_sets(study, bad, Evaluation(primary=primary)).threshold
        assert threshold == choose_threshold(log_probs, targets, primary)
    assert choose_threshold(log_probs, targets, "subset_accuracy") != choose_threshold(
        log_probs, targets, "micro_f1"
    )


@pytest.mark.parametrize(
    ("test", "validation", "expected"),
    [
        ((0.0,), (0.0,), True),
        ((0.0,), None, False),
        ((0.0,), (), False),
        ((), (0.0,), False),
    ],
)
def test_a_threshold_needs_validation_rows_and_probabilities(
    test: tuple[float, ...], validation: tuple[float, ...] | None, expected: bool
) -> None:
    held_out = [] if validation is None else [Prediction("v", "[]", True, validation)]
    assert has_threshold([Prediction("t", "[]", True, test)], held_out) == expected


def test_a_target_that_the_study_does_not_know_is_refused() -> None:
    study, results = study_of(6)
    strange = [*study.test[:-1], Example("test5", {"text": "x"}, '["z"]')]
    with pytest.raises(Failure, match=r"example test5 has the labels z, which are not all among"):
        score_label_sets(
            Study([], study.validation, strange, LABELS), results, Evaluation(resamples=100), 0
        )
