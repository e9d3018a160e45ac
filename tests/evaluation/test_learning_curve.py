"""Fits of learning curves: exact on their own families, and intervals that cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from prooftune.evaluation.learning_curve import Points, fit_curve

SIZES = np.array([250.0, 500.0, 1000.0, 2000.0])


def exact(values: np.ndarray, error: float = 1e-3, seed: int = 0) -> Points:
    """Points without subset noise, whose resamples vary a little and together."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(0, error, (300, 1))
    own = draw.normal(0, error / 5, (300, len(values)))
    return Points(SIZES, values, values + shared + own, 0.0, np.ones(len(values)))


def test_a_power_law_is_continued() -> None:
    def truth(n: np.ndarray | float) -> np.ndarray | float:
        return 1 - (0.05 + 2.0 * np.asarray(n) ** -0.45)

    curve = fit_curve(exact(np.asarray(truth(SIZES)), 1e-4), 0)
    assert curve.value(8000) == pytest.approx(float(truth(8000)), abs=0.003)
    value, low, high = curve.gain(4000, 0.95)
    assert value == pytest.approx(float(truth(4000)) - float(truth(2000)), abs=0.002)
    assert low <= value <= high


def test_a_logarithmic_curve_is_continued() -> None:
    curve = fit_curve(exact(1 - (0.9 - 0.09 * np.log(SIZES)), 1e-4), 0)
    assert curve.weights["logarithmic"] > 0.5
    assert curve.gain(4000, 0.95)[0] == pytest.approx(0.09 * np.log(2), abs=0.004)


def test_a_flat_curve_gains_nothing_and_a_falling_one_does_not_fall_on() -> None:
    flat = fit_curve(exact(np.full(4, 0.8)), 0)
    assert flat.gain(4000, 0.95)[0] == pytest.approx(0, abs=0.002)
    worse = fit_curve(exact(np.array([0.84, 0.83, 0.82, 0.81])), 0)
    assert worse.gain(4000, 0.95)[0] == pytest.approx(0, abs=1e-6)


def test_a_perfect_variant_stays_perfect() -> None:
    ones = np.ones(4)
    curve = fit_curve(Points(SIZES, ones, np.ones((200, 4)), 0.0, ones), 0)
    low, high = curve.interval(4000, 0.95)
    assert curve.value(4000) == pytest.approx(1, abs=1e-3) and low > 0.99 and high <= 1


def test_too_few_sizes_are_refused() -> None:
    points = exact(np.array([0.7, 0.75, 0.8, 0.82]))
    with pytest.raises(ValueError, match="2 sizes"):
        fit_curve(Points(SIZES[:2], points.values[:2], points.samples[:, :2], 0.0, np.ones(2)), 0)


def test_the_spread_between_subsets_widens_the_intervals() -> None:
    values = 1 - (0.05 + 2.0 * SIZES**-0.45)
    points = exact(values)
    wide = Points(SIZES, values, points.samples, 0.02, np.ones(4))
    width = [np.diff(fit_curve(p, 0).gain(4000, 0.95)[1:])[0] for p in (points, wide)]
    assert width[1] > 1.5 * width[0]


@pytest.mark.slow
@pytest.mark.parametrize(("asymptote", "exponent"), [(0.08, 0.3), (0.1, 0.5)])
def test_intervals_cover_the_truth_of_a_power_law(asymptote: float, exponent: float) -> None:
    """Variants of known error on 1,000 shared test rows, with subset noise."""
    studies, n, spread = 100, 1000, 0.005
    slope = 0.12 * 250**exponent

    def error(rows: float) -> float:
        return float(asymptote + slope * rows**-exponent)

    covered = np.zeros(2)
    for seed in range(studies):
        draw = np.random.default_rng(seed)
        shared, right = draw.random(n), []
        for rows in SIZES:
            own = np.where(draw.random(n) < 0.75, shared, draw.random(n))
            right.append(own > error(rows) + draw.normal(0, spread))
        table = np.stack(right, axis=1).astype(float)
        weights = draw.multinomial(n, np.full(n, 1 / n), size=250) / n
        curve = fit_curve(
            Points(SIZES, table.mean(axis=0), weights @ table, spread, np.ones(4)), seed
        )
        _, low, high = curve.gain(4000, 0.95)
        covered[0] += low <= error(2000) - error(4000) <= high
        low, high = curve.interval(4000, 0.95)
        covered[1] += low <= 1 - error(4000) + draw.normal(0, spread) <= high
    # 0.95 of 100 studies has a standard error of 2 points.
    assert (covered / studies > 0.89).all(), covered / studies
