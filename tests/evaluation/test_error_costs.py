"""Costs of errors: the metric, its interval and test, and the decision of least expected cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from prooftune import recipe as recipes
from prooftune.bundle.manifest_reader import _CommonSchema
from prooftune.errors import UsageError
from prooftune.evaluation.calibration import apply_temperature, fit_temperature
from prooftune.evaluation.decisions import with_decisions
from prooftune.evaluation.metrics import INVALID, Outcomes, columns, measure, rates, sums
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.resampling import label_prior
from prooftune.evaluation.score_types import defined
from prooftune.evaluation.scores import score
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.error_costs import error_cost_matrix, least_cost

LABELS = ["ham", "maybe", "spam"]
COSTS = error_cost_matrix({"ham": {"spam": 10, "maybe": 2}, "spam": {"spam": 0.5}}, LABELS)


def test_errors_that_are_not_named_cost_one_and_right_labels_nothing() -> None:
    assert COSTS.tolist() == [[0, 2, 10], [1, 0, 1], [1, 1, 0.5]]
    assert error_cost_matrix(None, LABELS).tolist() == (1 - np.eye(3)).tolist()


def test_mean_cost_is_the_mean_over_rows() -> None:
    targets, predicted = np.array([0, 0, 1, 2, 2, 0]), np.array([2, 0, 2, 2, INVALID, INVALID])
    outcomes = Outcomes(targets, predicted, None, 3, costs=COSTS)
    scalars, _ = measure(outcomes)
    # An invalid output costs as much as the row's most expensive error.
    expected = (10 + 0 + 1 + 0.5 + 1 + 10) / 6
    assert scalars["mean_cost"] == pytest.approx(expected)
    assert scalars["cost_score"] == pytest.approx(1 - expected / 10)
    assert "mean_cost" not in measure(Outcomes(targets, predicted, None, 3))[0]


def test_mean_cost_of_zero_one_costs_is_the_error_rate() -> None:
    draw = np.random.default_rng(0)
    targets, predicted = draw.integers(0, 3, 200), draw.integers(0, 3, 200)
    costs = error_cost_matrix(None, LABELS)
    scalars, _ = measure(Outcomes(targets, predicted, None, 3, costs=costs))
    assert scalars["mean_cost"] == pytest.approx(1 - scalars["accuracy"])


def test_costs_and_ordinal_labels_and_probabilities_share_the_columns() -> None:
    draw = np.random.default_rng(1)
    targets, log_probs = draw.integers(0, 3, 50), np.log(draw.dirichlet(np.ones(3), 50))
    predicted, scale = log_probs.argmax(axis=1), np.array([1.0, 2.0, 5.0])
    everything = measure(Outcomes(targets, predicted, log_probs, 3, scale, COSTS))[0]
    for part in (
        Outcomes(targets, predicted, log_probs, 3),
        Outcomes(targets, predicted, None, 3, scale),
        Outcomes(targets, predicted, None, 3, costs=COSTS),
    ):
        for name, value in measure(part)[0].items():
            assert everything[name] == pytest.approx(value), name


def test_pseudo_examples_have_costs() -> None:
    outcomes = Outcomes(np.array([0, 1, 2]), np.array([0, 1, 2]), None, 3, costs=COSTS)
    width = columns(outcomes).shape[1]
    prior = label_prior(3, width, 50, 0, 0, costs=COSTS)
    total = sums(prior, 3, costs=COSTS)
    right, targets = total.hits, total.targets
    wrong = targets - right
    expected = right @ np.diag(COSTS) + wrong @ ((COSTS.sum(1) - np.diag(COSTS)) / 2)
    np.testing.assert_allclose(np.asarray(total.cost), expected)
    assert (rates(total)["mean_cost"] > 0).all()


def test_least_cost_is_the_cheapest_by_enumeration() -> None:
    draw = np.random.default_rng(2)
    log_probs = np.log(draw.dirichlet(np.ones(3), 100))
    naive = [
        min(range(3), key=lambda j: sum(p[i] * COSTS[i, j] for i in range(3)))
        for p in np.exp(log_probs)
    ]
    assert least_cost(np.exp(log_probs), COSTS).tolist() == naive
    plain = error_cost_matrix(None, LABELS)
    assert least_cost(np.exp(log_probs), plain).tolist() == log_probs.argmax(axis=1).tolist()


def made_study(n: int) -> tuple[Study, VariantResult]:
    """Rows whose model is overconfident: its log-probabilities are twice the true ones."""
    draw = np.random.default_rng(3)

    def split(name: str, rows: int) -> tuple[list[Example], list[Prediction]]:
        examples, predictions = [], []
        for i in range(rows):
            true = draw.dirichlet(np.ones(3))
            doubled = 2 * np.log(true)
            log_probs = doubled - np.log(np.exp(doubled).sum())
            identity = f"{name}{i}"
            target = LABELS[draw.choice(3, p=true)]
            examples.append(Example(identity, {"text": identity}, target))
            output = LABELS[int(log_probs.argmax())]
            predictions.append(Prediction(identity, output, True, tuple(log_probs.tolist())))
        return examples, predictions

    train, _ = split("train", 9)
    validation, on_validation = split("validation", n)
    test, on_test = split("test", n)
    study = Study(train, validation, test, LABELS, costs=COSTS.tolist())
    return study, VariantResult("model", "tuned", on_test, on_validation, {}, Path())


def test_decisions_are_by_calibrated_probabilities_and_cost_less() -> None:
    study, result = made_study(400)
    [decided] = with_decisions(study, [result], ["model"])
    [[(test, validation)]] = outcomes_of(study, [result]).values()
    temperature = fit_temperature(validation)
    assert temperature == pytest.approx(2, rel=0.2)
    assert test.log_probs is not None
    wanted = least_cost(np.exp(apply_temperature(test.log_probs, temperature)), COSTS)
    assert [p.output for p in decided.test] == [LABELS[i] for i in wanted]
    assert [p.log_probs for p in decided.test] == [p.log_probs for p in result.test]
    assert with_decisions(study, [result], []) == [result]
    generated = VariantResult("x", "tuned", [Prediction("test0", "ham")], [], {}, Path())
    one = Study(study.train, [], study.test[:1], LABELS, costs=study.costs)
    assert with_decisions(one, [generated], ["x"])[0].test == generated.test


def test_variants_are_judged_by_cost_with_interval_and_paired_test() -> None:
    study, result = made_study(400)
    [decided] = with_decisions(study, [result], ["model"])
    likeliest = VariantResult("likeliest", "tuned", result.test, result.validation, {}, Path())
    scores = score(study, [decided, likeliest], recipes.Evaluation(resamples=300), 0)
    assert scores["primary"] == "cost_score"
    costs = [
        np.mean([COSTS[LABELS.index(str(e.target)), LABELS.index(p.output)] for e, p in pairs])
        for pairs in (
            list(zip(study.test, decided.test, strict=True)),
            list(zip(study.test, result.test, strict=True)),
        )
    ]
    for name, cost in zip(("model", "likeliest"), costs, strict=True):
        figure: Any = defined(scores["variants"][name]["metrics"]["mean_cost"])
        assert figure["value"] == pytest.approx(cost)
        assert figure["low"] < cost < figure["high"]
    [row] = scores["comparisons"]
    assert costs[0] < costs[1] and row["significant"]
    difference: Any = row["mean_cost"]  # type: ignore[typeddict-item]
    assert difference["value"] == pytest.approx(costs[0] - costs[1])
    assert difference["high"] < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"costs": [[0, 1], [1, 0]]}, "costs: expected {true label: {predicted label: cost}}"),
        ({"costs": {"a": 5}}, "costs: expected {true label"),
        ({"costs": {"a": {"b": -1}}}, r"costs\.a\.b: Input should be greater than or equal to 0"),
        ({"costs": {"a": {"b": "much"}}}, r"costs\.a\.b: .*number"),
        ({"costs": {}, "task": "free-text-qa"}, "'costs' does not apply to task: free-text-qa"),
        ({"evaluation": {"primary": "mean_cost"}}, "mean_cost needs costs"),
        (
            {"variants": {"tfidf": {"decision": "least-cost"}}},
            "decision: least-cost needs the recipe's costs",
        ),
    ],
)
def test_costs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    values = {"name": "n", "data": {"train": "t.csv"}, "variants": {"zero-shot": None}}
    with pytest.raises(UsageError, match=message):
        recipes.parse({**values, **changes})


def test_a_bundle_with_costs_of_other_labels_is_refused() -> None:
    manifest = {
        "task": "classification",
        "labels": LABELS,
        "fields": ["text"],
        "temperature": None,
        "costs": {"ham": {"spam": 2}},
    }
    assert _CommonSchema.model_validate(manifest).costs == {"ham": {"spam": 2.0}}
    for costs, message in (
        ({"ham": {"spm": 2}}, "names 'spm', which is not one of the labels"),
        ({"ham": {"spam": -2}}, "greater than or equal to 0"),
        ([1, 2], "expected {true label"),
    ):
        with pytest.raises(ValidationError, match=message):
            _CommonSchema.model_validate({**manifest, "costs": costs})
