"""Several trainings of a variant: means, intervals and tests over examples and trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evaluation.synthetic import result, results, study
from prooftune.evaluation.intervals import (
    Interval,
    paired_means_error,
    paired_means_interval,
    paired_proportions_interval,
)
from prooftune.evaluation.repeated_trainings import best_training, shipped_training
from prooftune.evaluation.score_types import defined, metric_difference
from prooftune.evaluation.scores import score
from prooftune.evaluation.trainings import (
    Component,
    between_pairs,
    between_trainings,
    detectable_by_trainings,
    two_level_p,
    with_trainings,
)
from prooftune.recipe import Evaluation
from prooftune.types import Study, VariantResult

SETTINGS = Evaluation(resamples=200)


def repeated(of: Study, name: str, skills: list[float], seed: int = 50) -> VariantResult:
    """A tuned variant whose trainings differ in skill and in their noise."""
    trainings = [
        replace(result(of, name, "tuned", skill, seed=seed + 7 * i), training=i)
        for i, skill in enumerate(skills)
    ]
    return replace(trainings[0], repeats=tuple(trainings[1:]))


def test_variance_between_trainings_is_that_of_a_mean() -> None:
    assert between_trainings(np.array([0.9])) == []
    (component,) = between_trainings(np.array([0.88, 0.90, 0.95]))
    assert component.freedom == 2
    assert component.variance == pytest.approx(np.var([0.88, 0.90, 0.95], ddof=1) / 3)


def test_shared_weights_are_paired_by_training() -> None:
    first, second = np.array([0.80, 0.85, 0.90]), np.array([0.81, 0.86, 0.91])
    (paired,) = between_pairs(first, second, paired=True)
    assert paired.variance == pytest.approx(0, abs=1e-15)
    assert len(between_pairs(first, second, paired=False)) == 2
    assert len(between_pairs(first, second[:1], paired=True)) == 1


def test_trainings_alone_give_students_interval_and_test() -> None:
    values = np.array([0.021, 0.034, 0.012, 0.040])
    components = between_trainings(values)
    rows = Interval(float(values.mean()), float(values.mean()), float(values.mean()))
    ends = with_trainings(rows, components, 0.95)
    reference = stats.ttest_1samp(values, 0.0)
    low, high = reference.confidence_interval(0.95)
    assert (ends.low, ends.high) == pytest.approx((low, high))
    assert two_level_p(float(values.mean()), 0.0, 500, components) == pytest.approx(
        reference.pvalue, rel=1e-6
    )


def test_without_variation_between_trainings_rows_alone_decide() -> None:
    rows = Interval(0.05, 0.01, 0.10)
    ends = with_trainings(rows, [Component(0.0, 2)], 0.95)
    assert (ends.low, ends.high) == pytest.approx((0.01, 0.10))
    assert with_trainings(rows, [], 0.95) is rows
    p = two_level_p(0.05, 0.02, 400, [Component(0.0, 2)])
    assert p == pytest.approx(2 * stats.t.sf(0.05 / 0.02, 399), rel=1e-6)


def test_more_variation_widens_the_interval_and_raises_p() -> None:
    rows = Interval(0.05, 0.02, 0.08)
    widths, ps = [], []
    for variance in (1e-6, 1e-5, 1e-4, 1e-3):
        ends = with_trainings(rows, [Component(variance, 2)], 0.95)
        widths.append(ends.high - ends.low)
        ps.append(two_level_p(0.05, 0.0153, 500, [Component(variance, 2)]))
    assert widths == sorted(widths) and ps == sorted(ps) and widths[0] >= 0.06
    assert two_level_p(0.0, 0.01, 500, [Component(1e-4, 1)]) == 1.0


def test_bounds_hold() -> None:
    ends = with_trainings(Interval(0.99, 0.97, 1.0), [Component(1e-3, 1)], 0.95, (0.0, 1.0))
    assert ends.high == 1.0 and ends.low >= 0


@pytest.mark.slow
def test_detectable_difference_has_its_power() -> None:
    rng, error, variance, freedom = np.random.default_rng(0), 0.012, 0.008**2, 3
    components = [Component(variance, freedom), Component(variance, freedom)]
    difference = detectable_by_trainings(error, 500, components, 0.05, 0.8)
    found = 0
    for _ in range(600):
        drawn = [Component(variance * rng.chisquare(freedom) / freedom, freedom) for _ in range(2)]
        seen = difference + rng.normal() * np.sqrt(error**2 + 2 * variance)
        found += two_level_p(float(seen), error, 500, drawn) < 0.05
    assert found / 600 == pytest.approx(0.8, abs=0.05)


def test_means_of_right_answers_have_the_interval_of_bonett_and_price() -> None:
    differences = np.array([1.0] * 12 + [-1.0] * 5 + [0.0] * 83)
    interval = paired_means_interval(differences, 0.95)
    reference = paired_proportions_interval(12, 5, 100, 0.95)
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (reference.value, reference.low, reference.high)
    )
    assert paired_means_error(differences / 2)[1] < paired_means_error(differences)[1]


@pytest.mark.slow
def test_scores_of_several_trainings_are_means_with_their_spread() -> None:
    of = study(200)
    tuned = repeated(of, "lora", [2.8, 3.0, 2.6])
    others = results(of, {"tfidf": ("tfidf", 2.1), "zero-shot": ("zero-shot", 0.9)})
    scores = score(of, [*others, tuned], SETTINGS, 0)
    singles = [
        score(of, [*others, replace(t, repeats=())], SETTINGS, 0)["variants"]["lora"]
        for t in tuned.trainings
    ]
    found = scores["variants"]["lora"]
    for name in ("accuracy", "macro_f1", "mcc", "log_loss", "ece"):
        each = [defined(single["metrics"][name]) for single in singles]
        values, figure = [f["value"] for f in each], defined(found["metrics"][name])
        assert figure["value"] == pytest.approx(np.mean(values), rel=1e-5)
        assert figure["trainings"] == pytest.approx(values, rel=1e-5)
        assert figure["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4)
        width = np.mean([f["high"] - f["low"] for f in each])
        assert figure["high"] - figure["low"] > width
    on_validation = [single["validation_quality"] or 0.0 for single in singles]
    best = int(np.argmax(on_validation))
    assert found["trainings"]["validation"] == on_validation
    assert found["trainings"]["best"] == best + 1
    for key in ("confusion", "per_class", "calibration", "temperature"):
        assert found[key] == singles[best][key]
    assert found["trainings"]["metrics"] == singles[best]["metrics"]
    assert shipped_training(tuned, found) is tuned.trainings[best]
    assert "trainings" not in scores["variants"]["tfidf"]
    assert "sd" not in scores["variants"]["tfidf"]["metrics"]["accuracy"]
    sentence = scores["verdict"]["sentence"]
    assert "on average over 3 trainings (standard deviation" in sentence


@pytest.mark.slow
def test_intervals_of_differences_agree_with_p_for_several_trainings() -> None:
    of = study(150)
    for seed in (50, 90, 130):
        tuned = repeated(of, "lora", [2.2, 2.6, 2.0], seed)
        other = repeated(of, "head", [2.3, 2.1, 2.4], seed + 500)
        base = result(of, "tfidf", "tfidf", 2.1, seed=3)
        rows = score(of, [base, tuned, other], SETTINGS, 0)["comparisons"]
        for row in rows:
            ends = defined(metric_difference(row, "accuracy"))
            assert (ends["low"] <= 0 <= ends["high"]) == (not row["significant"])
            assert 0 < row["p"] <= row["p_holm"] <= 1
            assert 0 < (row["minimum_detectable_difference"] or 0) < 1


@pytest.mark.slow
def test_trainings_of_one_adapter_are_compared_in_pairs() -> None:
    """Two prompts for the same weights differ by little in every training."""
    of = study(300)
    tuned = repeated(of, "lora", [2.0, 2.6, 3.2])
    flipped = [
        replace(
            training,
            name="prompt",
            test=[
                replace(p, output=of.labels[0]) if i % 25 == 0 else p
                for i, p in enumerate(training.test)
            ],
            repeats=(),
        )
        for training in tuned.trainings
    ]
    other = replace(flipped[0], repeats=tuple(flipped[1:]))
    unpaired = score(of, [tuned, other], SETTINGS, 0)["comparisons"][0]
    paired = score(of, [tuned, replace(other, adapter="lora")], SETTINGS, 0)["comparisons"][0]
    first, second = (defined(metric_difference(row, "accuracy")) for row in (paired, unpaired))
    assert first["value"] == second["value"] > 0
    assert paired["p"] < 0.05 < 0.2 < unpaired["p"]


def test_best_training_is_the_first_without_validation() -> None:
    assert best_training([None, None]) == 0
    assert best_training([0.8, 0.9, 0.9]) == 1


def test_a_training_of_other_examples_is_named() -> None:
    of = study(40)
    tuned = repeated(of, "lora", [2.0, 2.0])
    broken = replace(tuned, repeats=(replace(tuned.repeats[0], test=tuned.test[:-1]),))
    with pytest.raises(Exception, match="variant 'lora', training 2, test: 39 predictions for 40"):
        score(of, [broken], SETTINGS, 0)


def test_folder() -> None:
    from prooftune.run_folder import trained_folder, training_folder

    variants = Path("run/variants")
    assert training_folder(variants, "tuned") == variants / "tuned"
    assert training_folder(variants, "tuned", 2) == variants / "tuned" / "training-3"
    second = VariantResult(
        "other", "tuned", [], [], {}, variants / "other" / "training-2", adapter="tuned", training=1
    )
    assert trained_folder(second) == variants / "tuned" / "training-2"
