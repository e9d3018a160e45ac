"""The scores of a study: a case worked by hand, what is refused, and what a larger one holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import synthetic
from prooftune.errors import Failure
from prooftune.evaluation.comparison_plan import pairs
from prooftune.evaluation.measurements import tidy
from prooftune.evaluation.metrics import Outcomes
from prooftune.evaluation.scores import score
from prooftune.recipe import Evaluation
from prooftune.types import Example, Prediction, Study, VariantResult

FAST = Evaluation(resamples=200)


def tiny() -> tuple[Study, list[VariantResult]]:
    """Ten examples, alternately a and b; zero-shot predicts a, tuned errs on the last only."""
    examples = [Example(f"t{i}", {"text": f"text {i}"}, "ab"[i % 2]) for i in range(10)]
    study = Study([], [], examples, ["a", "b"])
    zero = [Prediction(e.id, "a", log_probs=(np.log(0.6), np.log(0.4))) for e in examples]
    sure = {"a": (np.log(0.9), np.log(0.1)), "b": (np.log(0.1), np.log(0.9))}
    tuned = [Prediction(e.id, str(e.target), log_probs=sure[str(e.target)]) for e in examples]
    tuned[9] = Prediction("t9", "a", log_probs=(np.log(0.7), np.log(0.3)), truncated_tokens=3)
    return study, [
        VariantResult("zero-shot", "zero-shot", zero, [], {}, Path()),
        VariantResult("lora", "tuned", tuned, [], {}, Path()),
    ]


def test_a_case_worked_by_hand() -> None:
    scores: Any = score(*tiny(), FAST, seed=1, notes=["3 rows were dropped."])
    zero, lora = scores["variants"]["zero-shot"], scores["variants"]["lora"]
    assert zero["metrics"]["accuracy"]["value"] == 0.5
    assert lora["metrics"]["accuracy"]["value"] == 0.9
    assert lora["confusion"] == {
        "rows": ["a", "b"],
        "columns": ["a", "b"],
        "counts": [[5, 0], [1, 4]],
    }
    b = lora["per_class"][1]
    assert (b["precision"]["value"], b["recall"]["value"]) == (1.0, 0.8)
    assert b["f1"]["value"] == pytest.approx(8 / 9, rel=1e-5)
    assert lora["metrics"]["macro_f1"]["value"] == pytest.approx((10 / 11 + 8 / 9) / 2, rel=1e-5)
    assert zero["metrics"]["balanced_accuracy"]["value"] == 0.5
    assert zero["metrics"]["ece"]["plain"] == pytest.approx(0.1)
    log_loss = -(9 * np.log(0.9) + np.log(0.3)) / 10
    assert lora["metrics"]["log_loss"]["value"] == pytest.approx(log_loss, rel=1e-5)
    assert (lora["truncated"], lora["truncated_tokens"], lora["invalid"]) == (1, 3, 0)
    assert lora["temperature"] is None, "nothing to fit it on"
    (comparison,) = scores["comparisons"]
    assert (comparison["a"], comparison["b"]) == ("lora", "zero-shot")
    assert (comparison["only_a"], comparison["only_b"]) == (4, 0)
    assert comparison["p"] == comparison["p_holm"] == 2 / 16
    assert not comparison["significant"]
    assert comparison["accuracy"]["value"] == pytest.approx(0.4)
    assert scores["verdict"]["outcome"] == "undecided"
    fixed = scores["changed"]["fixed"]
    assert fixed["count"] == 4 and scores["changed"]["broken"]["count"] == 0
    assert fixed["examples"][0] == {
        "id": "t1",
        "text": "text 1",
        "target": "b",
        "before": {"output": "a", "valid": True, "probability": 0.6},
        "after": {"output": "b", "valid": True, "probability": 0.9},
        "sources": [],
    }
    assert scores["notes"] == ["3 rows were dropped."]
    assert (scores["n"], scores["seed"]) == (10, 1)


@pytest.fixture(scope="module")
def larger() -> Any:
    study = synthetic.study()
    return score(study, synthetic.results(study), FAST, seed=0)


@pytest.mark.slow
def test_scores_are_json_without_nan_and_the_same_twice(larger: Any) -> None:
    study = synthetic.study()
    again = score(study, synthetic.results(study), FAST, seed=0)
    assert json.dumps(larger, allow_nan=False) == json.dumps(again, allow_nan=False)


@pytest.mark.slow
def test_every_figure_lies_in_its_interval(larger: Any) -> None:
    for name, variant in larger["variants"].items():
        for metric, figure in variant["metrics"].items():
            assert figure["low"] <= figure["value"] <= figure["high"], (name, metric, figure)


@pytest.mark.slow
def test_pairs_compared(larger: Any) -> None:
    compared = {(c["a"], c["b"]) for c in larger["comparisons"]}
    others = ("majority", "tfidf", "zero-shot", "few-shot", "prompted")
    assert compared == {
        *(("lora", other) for other in others),
        *((other, "zero-shot") for other in ("tfidf", "few-shot", "prompted")),
    }


def test_without_a_tuned_variant_the_simpler_one_is_subtracted() -> None:
    kinds = {"tfidf": "tfidf", "majority": "majority", "zero-shot": "zero-shot"}
    expected = [("tfidf", "majority"), ("zero-shot", "majority"), ("zero-shot", "tfidf")]
    assert pairs(kinds) == expected


def test_calibration_improves_an_overconfident_variant(larger: Any) -> None:
    zero = larger["variants"]["zero-shot"]
    assert zero["temperature"] > 1.2
    for name in ("ece", "log_loss"):
        figures = zero["calibration"][name]
        assert figures["after"]["value"] < figures["before"]["value"]
    assert larger["variants"]["majority"]["calibration"] is None


def test_invalid_outputs_have_their_own_rate(larger: Any) -> None:
    prompted = larger["variants"]["prompted"]
    assert prompted["invalid"] > 0
    assert prompted["metrics"]["invalid_rate"]["value"] == pytest.approx(prompted["invalid"] / 500)
    assert prompted["confusion"]["columns"][-1] == "(invalid)"


def test_target_accuracy_is_half_way_from_the_best_validation_accuracy(
    larger: Any,
) -> None:
    study = synthetic.study()
    lora = synthetic.results(study)[-1]
    accuracy = np.mean(
        [p.output == e.target for p, e in zip(lora.validation, study.validation, strict=True)]
    )
    assert larger["target_accuracy"] == pytest.approx((1 + accuracy) / 2)
    assert larger["variants"]["lora"]["abstention"]["reachable"]


def test_certainty_is_not_claimed_when_everything_is_right() -> None:
    study, (zero, _) = tiny()
    perfect = [Prediction(e.id, str(e.target)) for e in study.test]
    scores = score(
        study, [zero, VariantResult("lora", "tuned", perfect, [], {}, Path())], FAST, seed=0
    )
    accuracy = scores["variants"]["lora"]["metrics"]["accuracy"]
    assert accuracy["value"] == accuracy["high"] == 1.0
    assert accuracy["low"] == pytest.approx(0.722, abs=0.001)


def with_test(result: VariantResult, predictions: list[Prediction]) -> VariantResult:
    return VariantResult(result.name, result.kind, predictions, result.validation, {}, Path())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:-1], "9 predictions for 10 examples"),
        (lambda p: [p[1], p[0], *p[2:]], "prediction 0 is for example t1, where the study has t0"),
        (lambda p: [Prediction("t0", "c"), *p[1:]], "output 'c'"),
        (lambda p: [Prediction("t0", "a"), *p[1:]], "probabilities for 0 or 2 labels"),
    ],
)
def test_predictions_that_are_not_comparable_are_refused(
    spoil: Callable[[list[Prediction]], list[Prediction]], message: str
) -> None:
    study, (zero, lora) = tiny()
    with pytest.raises(Failure, match=message):
        score(study, [zero, with_test(lora, spoil(lora.test))], FAST, seed=0)


def test_two_variants_of_one_name_nothing_to_score_and_strange_targets_are_refused() -> None:
    study, (zero, _) = tiny()
    with pytest.raises(Failure, match="two variants"):
        score(study, [zero, zero], FAST, seed=0)
    with pytest.raises(Failure, match="no test examples"):
        score(Study([], [], [], ["a", "b"]), [zero], FAST, seed=0)
    with pytest.raises(Failure, match="no variants"):
        score(study, [], FAST, seed=0)
    with pytest.raises(Failure, match="target 'b'"):
        score(Study([], [], study.test, ["a"]), [zero], FAST, seed=0)


def test_tidy_leaves_only_what_json_knows() -> None:
    assert tidy({1: (np.float64("nan"), np.int64(3), float("inf"), 0.123456789, True)}) == {
        "1": [None, 3, None, 0.123457, True]
    }


def test_confidence_of_an_invalid_output_is_the_largest_probability() -> None:
    o = Outcomes(np.array([0]), np.array([-1]), np.log([[0.3, 0.7]]), 2)
    assert o.confidence.tolist() == pytest.approx([0.7])
