"""What is judged: the metric, the worthwhile difference, the units, and which variant."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import synthetic
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.primary import judged_variant
from prooftune.evaluation.score_types import defined, metric_difference
from prooftune.evaluation.scores import score
from prooftune.recipe import Evaluation
from prooftune.types import Example, Prediction, Study, VariantResult

FAST = Evaluation(resamples=300)


def study_of(targets: list[str], train: list[str] | None = None, **options: Any) -> Study:
    labels = sorted({*targets, *(train or [])})
    test = [Example(f"t{i}", {"text": str(i)}, t, **options) for i, t in enumerate(targets)]
    known = [Example(f"r{i}", {"text": str(i)}, t) for i, t in enumerate(train or [])]
    return Study(known, [], test, labels)


def variant(study: Study, name: str, kind: str, outputs: list[str]) -> VariantResult:
    found = [Prediction(e.id, o) for e, o in zip(study.test, outputs, strict=True)]
    return VariantResult(name, kind, found, [], {}, Path(name))


def rare_labels_lost() -> tuple[Study, list[VariantResult]]:
    """920/60/20 labels: tuning gains on the frequent label and never gives the others."""
    targets = ["a"] * 920 + ["b"] * 60 + ["c"] * 20
    study = study_of(targets, ["a"] * 92 + ["b"] * 6 + ["c"] * 2)
    zero = ["b" if i % 12 == 0 else "a" for i in range(920)] + ["b"] * 45 + ["a"] * 15
    zero += ["c"] * 15 + ["a"] * 5
    tuned = ["a"] * 920 + ["b"] * 20 + ["a"] * 40 + ["a"] * 20
    return study, [
        variant(study, "zero", "zero-shot", zero),
        variant(study, "lora", "tuned", tuned),
    ]


def test_uneven_training_labels_are_judged_by_macro_f1_and_that_is_said() -> None:
    scores = score(*rare_labels_lost(), FAST, 0)
    assert scores["primary"] == "macro_f1"
    assert any("46 to 1" in note and "macro F1" in note for note in scores["notes"])
    assert scores["verdict"]["outcome"] == "loses"
    assert "zero is better" in scores["verdict"]["headline"]


def test_a_secondary_metric_that_gets_worse_stands_in_the_headline() -> None:
    scores = score(*rare_labels_lost(), FAST.model_copy(update={"primary": "accuracy"}), 0)
    verdict = scores["verdict"]
    assert verdict["outcome"] == "wins"
    assert "but macro F1" in verdict["headline"] and "got worse" in verdict["headline"]
    assert "it moves macro F1 by −" in verdict["sentence"]


def test_mean_labels_keep_accuracy() -> None:
    study = study_of(["a", "b"] * 10, ["a"] * 10 + ["b"])
    results = [variant(study, "zero", "zero-shot", ["a"] * 20)]
    assert score(study, results, FAST, 0)["primary"] == "accuracy"


def of_counts(n: int, only_zero: int, only_lora: int) -> tuple[Study, list[VariantResult]]:
    """Both are right on the rest of n examples."""
    study = study_of(["a", "b"] * (n // 2), ["a", "b"])
    wrong = {"a": "b", "b": "a"}
    right = [str(e.target) for e in study.test]
    zero = [wrong[t] if i < only_lora else t for i, t in enumerate(right)]
    lora = [wrong[t] if only_lora <= i < only_lora + only_zero else t for i, t in enumerate(right)]
    return study, [
        variant(study, "zero", "zero-shot", zero),
        variant(study, "lora", "tuned", lora),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "worthwhile", "headline"),
    [
        ((2000, 10, 200), 2, "Fine-tuning helped, by more than 2.0 points."),
        ((2000, 10, 60), 2, "Fine-tuning helped, but not surely by 2.0 points or more."),
        ((4000, 10, 40), 2, "no worthwhile difference: 0.75 points, surely less than 2.0"),
        ((2000, 20, 22), 2, "no worthwhile difference: within 2.0 points of zero"),
        ((60, 4, 5), 2, "made no difference that this test set can show"),
        ((40000, 100, 160), None, "Fine-tuning helped, but only by 0.15 points."),
    ],
)
def test_three_answers(
    counts: tuple[int, int, int], worthwhile: float | None, headline: str
) -> None:
    chosen = FAST.model_copy(update={"worthwhile": worthwhile, "resamples": 100})
    verdict = score(*of_counts(*counts), chosen, 0)["verdict"]
    assert headline in verdict["headline"]


def test_only_the_untuned_model_shows_whether_tuning_helped() -> None:
    study = synthetic.study(300)
    results = synthetic.results(study, {"majority": ("majority", 0), "lora": ("tuned", 3.0)})
    headline = score(study, results, FAST, 0)["verdict"]["headline"]
    assert headline == "lora beats majority; the untuned model was not compared."


def two_tuned() -> tuple[Study, list[VariantResult]]:
    """`good` is better on validation, `lucky` on test."""
    study = synthetic.study(400)
    lucky = synthetic.result(study, "lucky", "tuned", 4.0, seed=2)
    worse = synthetic.result(study, "lucky", "tuned", 0.4, seed=3)
    lucky = replace(lucky, validation=worse.validation)
    good = synthetic.result(study, "good", "tuned", 1.2, seed=4)
    return study, [good, lucky, synthetic.result(study, "zero", "zero-shot", 1.2, seed=9)]


def test_a_better_variant_that_was_not_chosen_is_said() -> None:
    verdict = score(*two_tuned(), FAST, 0)["verdict"]
    assert verdict["best_tuned"] == "good"
    assert [entry["variant"] for entry in verdict["better"]] == ["lucky"]
    assert "lucky (by " in verdict["headline"]
    assert "not chosen on validation" in verdict["headline"]


def test_the_recipe_may_name_the_judged_variant() -> None:
    named = score(*two_tuned(), FAST, 0, bundled="lucky")["verdict"]
    assert named["best_tuned"] == "lucky" and not named["better"]


def test_controls_are_not_judged() -> None:
    def variant(quality: float, role: str = "tuned") -> Any:
        return {
            "kind": "tuned",
            "role": role,
            "validation_quality": quality,
            "metrics": {"f1": {"value": 0.5, "low": 0.4, "high": 0.6}},
        }

    variants = {"tuned": variant(0.4), "retrieved": variant(0.6), "gold": variant(0.9, "control")}
    assert judged_variant(variants, "f1") == "retrieved"
    assert judged_variant(variants, "f1", "tuned") == "tuned"


def in_groups(count: int, size: int = 25) -> tuple[Study, list[VariantResult]]:
    """Each variant is right in whole groups: rows of a group say the same thing."""
    targets = ["a", "b"] * (count * size // 2)
    study = study_of(targets)
    study = replace(
        study, test=[replace(e, group=f"g{i // size}") for i, e in enumerate(study.test)]
    )
    wins = np.arange(count) < 0.65 * count
    wrong = {"a": "b", "b": "a"}
    zero = [wrong[t] if wins[i // size] else t for i, t in enumerate(targets)]
    lora = [t if wins[i // size] else wrong[t] for i, t in enumerate(targets)]
    return study, [
        variant(study, "zero", "zero-shot", zero),
        variant(study, "lora", "tuned", lora),
    ]


def test_groups_are_what_is_resampled_and_what_rows_would_say_is_kept() -> None:
    scores: Any = score(*in_groups(20), FAST, 0)
    assert scores["groups"] == {"count": 20, "by": "data.group", "largest": 25}
    (row,) = scores["comparisons"]
    assert row["by_rows"]["p"] < 0.001 <= 0.05 < row["p"], "20 groups, not 500 rows"
    figure = scores["variants"]["lora"]["metrics"]["accuracy"]
    alone = figure["by_rows"]
    assert figure["high"] - figure["low"] > 3 * (alone["high"] - alone["low"])


def test_four_groups_cannot_show_anything() -> None:
    (row,) = score(*in_groups(4), FAST, 0)["comparisons"]
    assert row["p"] >= 0.125 and not row["significant"]
    accuracy = defined(metric_difference(row, "accuracy"))
    assert accuracy["low"] <= 0 <= accuracy["high"]


def test_groups_of_one_row_are_no_groups() -> None:
    study, results = in_groups(20, 2)
    alone = replace(study, test=[replace(e, group=e.id) for e in study.test])
    assert score(alone, results, FAST, 0)["groups"] is None


@settings(deadline=None)
@given(st.floats(-1, 1).filter(bool), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_an_interval_never_contradicts_its_test(
    value: float, below: float, above: float, significant: bool
) -> None:
    ends = consistent({"value": value, "low": value - below, "high": value + above}, significant)
    assert ends["low"] <= value <= ends["high"]
    contains = ends["low"] <= 0 <= ends["high"]
    assert contains is not significant


@pytest.mark.slow
def test_intervals_agree_with_holm_in_a_study_of_many_variants() -> None:
    study = synthetic.study(200)
    skills = {"zero": ("zero-shot", 1.0), "few": ("few-shot", 1.2), "prompted": ("prompted", 1.3)}
    tuned = {f"lora-{i}": ("tuned", 1.0 + 0.15 * i) for i in range(5)}
    scores = score(study, synthetic.results(study, skills | tuned), FAST, 0)
    found = set()
    for row in scores["comparisons"]:
        accuracy = defined(metric_difference(row, "accuracy"))
        excludes = accuracy["low"] > 0 or accuracy["high"] < 0
        assert excludes == row["significant"], row
        found.add(row["significant"])
        assert 0.05 / len(scores["comparisons"]) <= row["level"] <= 0.05 + 1e-9
    assert found == {True, False}


def test_every_kind_of_cheaper_model_is_a_reference() -> None:
    study = synthetic.study(300)
    kinds = {"zero": ("zero-shot", 0.5), "tfidf": ("tfidf", 1.0), "vectors": ("embedding", 1.2)}
    results = synthetic.results(study, kinds | {"lora": ("tuned", 3.0)})
    verdict = score(study, results, FAST, 0)["verdict"]
    assert [entry["variant"] for entry in verdict["against"]] == ["zero", "tfidf", "vectors"]
