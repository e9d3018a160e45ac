"""The interval of the calibration error contains 0 for a calibrated model, and the truth for
others."""

import numpy as np
import pytest

from evaluation.test_calibration import made
from prooftune.evaluation.ece import ece_interval
from prooftune.evaluation.metrics import BINS, Outcomes, bin_of
from prooftune.evaluation.resampling import Groups


def true_error(sharpness: float) -> float:
    o = made(n=200_000, sharpness=sharpness, seed=99)
    bins = bin_of(o.confidence)
    gaps = np.bincount(bins, weights=o.correct - o.confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(o))


@pytest.mark.slow
def test_a_calibrated_models_interval_contains_0_as_often_as_it_should() -> None:
    found = [ece_interval(made(n=200, seed=seed), 0.95, seed) for seed in range(100)]
    assert np.mean([f.low == 0 for f in found]) >= 0.89
    assert np.mean([f.value for f in found]) < 0.03, "the plain figure is about 0.08"


@pytest.mark.slow
@pytest.mark.parametrize(("sharpness", "n"), [(2.0, 50), (0.5, 300)])
def test_the_interval_contains_the_true_error(sharpness: float, n: int) -> None:
    true = true_error(sharpness)
    found = [ece_interval(made(n, sharpness, seed), 0.95, seed) for seed in range(60)]
    assert np.mean([f.low <= true <= f.high for f in found]) > 0.86
    assert all(f.low <= f.value <= f.high for f in found)


def test_all_right_and_sure_is_not_known_to_be_calibrated() -> None:
    sure = np.log(np.array([[0.999, 0.001]] * 20))
    interval = ece_interval(Outcomes(np.zeros(20, int), np.zeros(20, int), sure, 2), 0.95, 0)
    assert interval.low == 0 and interval.high > 0.1


@pytest.mark.slow
def test_groups_widen_the_interval_until_it_holds_0_for_a_calibrated_model() -> None:
    """Correctness departs from confidence by group, and not on average."""
    generator, held = np.random.default_rng(5), {"rows": 0, "groups": 0}
    for seed in range(60):
        index = np.repeat(np.arange(20), 40)
        sure = generator.uniform(0.55, 0.8, size=len(index))
        right = generator.random(len(index)) < sure + 0.2 * generator.choice([-1, 1], 20)[index]
        log_probs = np.log(np.stack([sure, 1 - sure], axis=1))
        outcomes = Outcomes(np.where(right, 0, 1), np.zeros(len(index), np.int64), log_probs, 2)
        held["rows"] += ece_interval(outcomes, 0.95, seed).low == 0
        held["groups"] += ece_interval(outcomes, 0.95, seed, Groups(index, 20)).low == 0
    assert held["rows"] < 45 < 54 <= held["groups"], held
