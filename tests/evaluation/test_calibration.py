"""Temperature, reliability, risk-coverage and abstention."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.evaluation import calibration
from prooftune.evaluation.metrics import Outcomes, log_losses, measure


def made(n: int = 4000, sharpness: float = 1.0, seed: int = 0, classes: int = 3) -> Outcomes:
    """Targets drawn from the true probabilities; the ones given are sharpened by a known
    temperature."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, classes)) * 2
    true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    targets = (true.cumsum(1) > rng.random((n, 1))).argmax(1)
    given_scores = scores * sharpness
    log_probs = given_scores - np.log(np.exp(given_scores).sum(1, keepdims=True))
    return Outcomes(targets, log_probs.argmax(1), log_probs, classes)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_sharpening(sharpness: float) -> None:
    o = made(sharpness=sharpness)
    assert o.log_probs is not None
    temperature = calibration.fit_temperature(o)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    after = o.with_log_probs(calibration.apply_temperature(o.log_probs, temperature))
    assert measure(after)[0]["ece"] < 0.03
    assert measure(after)[0]["log_loss"] <= measure(o)[0]["log_loss"] + 1e-9


def test_temperature_is_the_minimum_of_the_loss_on_a_grid() -> None:
    o = made(n=300, sharpness=2.0)
    assert o.log_probs is not None
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 600))
    at = [o.with_log_probs(calibration.apply_temperature(o.log_probs, t)) for t in grid]
    losses = [measure(scaled)[0]["log_loss"] for scaled in at]
    assert calibration.fit_temperature(o) == pytest.approx(grid[int(np.argmin(losses))], rel=0.02)


def test_temperature_of_equal_probabilities_stays_1() -> None:
    rows = Outcomes(np.arange(100) % 2, np.zeros(100, int), np.full((100, 2), np.log(0.5)), 2)
    assert calibration.fit_temperature(rows) == 1.0


def test_temperature_stays_1_where_the_rows_do_not_determine_one() -> None:
    enough = calibration.LEAST_VALIDATION_ROWS
    assert calibration.fit_temperature(made(n=enough - 1, sharpness=5.0)) == 1.0
    assert calibration.fit_temperature(made(n=enough, sharpness=5.0)) > 2
    # All right: the log-loss falls with the temperature without end.
    assert calibration.fit_temperature(hand([0.6] * 100, [True] * 100)) == 1.0
    # One mistake at confidence 0.6: 99% right is log-odds of 4.6, and 0.6 is 0.405.
    once = calibration.fit_temperature(hand([0.6] * 100, [True] * 99 + [False]))
    assert once == pytest.approx(np.log(0.6 / 0.4) / np.log(99), rel=0.01)


@pytest.mark.parametrize("sharpness", [1.0, 2.5])
def test_a_temperature_is_fitted_from_as_few_rows_as_pay(sharpness: float) -> None:
    """Expected log-loss on new rows against T = 1 (docs/statistics.md has more cases)."""
    new = made(n=20_000, sharpness=sharpness, seed=99)
    assert new.log_probs is not None
    rows = dict.fromkeys(("calibrated", "T = 1"), 0.0)
    for seed in range(40):
        fitted = calibration.fit_temperature(
            made(n=calibration.LEAST_VALIDATION_ROWS, sharpness=sharpness, seed=seed)
        )
        for name, temperature in (("calibrated", fitted), ("T = 1", 1.0)):
            scaled = new.with_log_probs(calibration.apply_temperature(new.log_probs, temperature))
            rows[name] += float(log_losses(scaled).mean()) / 40
    gain = rows["T = 1"] - rows["calibrated"]
    assert gain > 0.1 if sharpness > 1 else -0.03 < gain < 0


def test_temperature_needs_probabilities() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        calibration.fit_temperature(Outcomes(np.zeros(3, int), np.zeros(3, int), None, 2))


@settings(deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 100))
def test_applying_a_temperature_keeps_the_answer_and_the_sum(temperature: float, seed: int) -> None:
    o = made(n=20, seed=seed)
    assert o.log_probs is not None
    scaled = calibration.apply_temperature(o.log_probs, temperature)
    np.testing.assert_allclose(np.exp(scaled).sum(1), 1)
    np.testing.assert_array_equal(scaled.argmax(1), o.log_probs.argmax(1))


def test_reliability_bins_hold_every_example_once() -> None:
    o = made(n=500)
    points = calibration.reliability(o, 0.95)
    assert sum(p["n"] for p in points) == 500
    assert all(p["from"] < p["confidence"] <= p["to"] for p in points)
    assert all(p["low"] <= p["accuracy"] <= p["high"] for p in points)
    gap = sum(p["n"] * abs(p["accuracy"] - p["confidence"]) for p in points) / 500
    assert gap == pytest.approx(measure(o)[0]["ece"])


def hand(confidences: list[float], right: list[bool]) -> Outcomes:
    """Two labels; the first is predicted with these confidences, and is the target if right."""
    p = np.array(confidences)
    targets = np.where(right, 0, 1)
    return Outcomes(targets, np.zeros(len(p), int), np.log(np.stack([p, 1 - p], 1)), 2)


def test_risk_coverage_by_hand() -> None:
    curve = calibration.risk_coverage(hand([0.9, 0.8, 0.7, 0.6], [True, False, True, False]))
    assert [p["coverage"] for p in curve["points"]] == [0.25, 0.5, 0.75, 1.0]
    assert [p["risk"] for p in curve["points"]] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_risk_of_ties_does_not_depend_on_their_order() -> None:
    a = calibration.risk_coverage(hand([0.9, 0.9, 0.6], [True, False, True]))
    b = calibration.risk_coverage(hand([0.9, 0.9, 0.6], [False, True, True]))
    assert a == b
    assert a["points"][0]["risk"] == 0.5


def test_risk_coverage_has_at_most_101_points_and_ends_at_the_error_rate() -> None:
    o = made(n=5000)
    points = calibration.risk_coverage(o)["points"]
    assert len(points) == 101
    assert points[-1] == {"coverage": 1.0, "risk": pytest.approx(1 - measure(o)[0]["accuracy"])}
