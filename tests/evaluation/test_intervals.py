"""Intervals against statsmodels, published examples and exact enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from prooftune.evaluation.intervals import (
    UNIT,
    auroc,
    f1_interval,
    paired_difference,
    paired_proportions_interval,
    percentile_interval,
    resampling_interval,
    wilson_interval,
)
from prooftune.evaluation.resampling import Samples, resample_counts


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (5, 10), (456, 500), (4, 300)])
def test_wilson_equals_statsmodels_where_neither_count_is_small(k: int, n: int) -> None:
    expected = proportion_confint(k, n, method="wilson")
    assert wilson_interval(k, n, 0.95) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_mirrors(k_n: tuple[int, int]) -> None:
    k, n = k_n
    low, high = wilson_interval(k, n, 0.95)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson_interval(n - k, n, 0.95) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("n", [10, 20, 50, 200, 1000])
def test_wilson_covers_by_enumeration(n: int) -> None:
    """Exact coverage over a grid of proportions; unmodified it falls to 84% near 0 and 1."""
    ends = np.array([wilson_interval(k, n, 0.95) for k in range(n + 1)])
    for p in (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 0.98, 0.99):
        held = (ends[:, 0] <= p) & (p <= ends[:, 1])
        coverage = binom.pmf(np.arange(n + 1), n, p)[held].sum()
        assert coverage > 0.915, (n, p)


def test_more_mistakes_never_give_a_higher_lower_end() -> None:
    lows = [wilson_interval(k, 20, 0.95)[0] for k in range(21)]
    assert lows == sorted(lows)


def test_paired_proportions_equal_the_published_example() -> None:
    """Airway hyper-responsiveness of 21 children (Bentur et al. 2009), as Fagerland, Lydersen and
    Laake (2014) analyse it: 7 and 1 discordant pairs; theirs is the second minus the first."""
    interval = paired_proportions_interval(1, 7, 21, 0.95)
    assert interval.value == pytest.approx(-6 / 21)
    assert (interval.low, interval.high) == pytest.approx((-0.508, -0.013), abs=1e-3)


def test_paired_proportions_are_never_certain() -> None:
    interval = paired_proportions_interval(5, 0, 5, 0.95)
    assert interval.value == interval.high == 1.0
    assert 0 < interval.low < 0.5
    assert paired_proportions_interval(0, 0, 5, 0.95).high > 0.2


def test_f1_interval_lies_around_the_f1() -> None:
    low, high = f1_interval(3, 5, 0.95)
    assert low < 2 * 3 / (3 + 5) < high
    assert f1_interval(4, 4, 0.95)[0] == pytest.approx(2 * 0.51011 / 1.51011, abs=1e-3)


def test_percentiles_leave_undefined_resamples_out() -> None:
    assert percentile_interval(np.array([np.nan, 1.0, 2.0, 3.0]), 1.0) == (1.0, 3.0)
    assert np.isnan(percentile_interval(np.array([np.nan]), 0.95)).all()


def test_few_units_widen_percentiles_to_students_t() -> None:
    """A bootstrap mean of n normal values has a spread of s sqrt((n - 1) / n) / sqrt(n)."""
    n = 10
    samples = np.random.default_rng(0).normal(0, np.sqrt((n - 1) / n), 400_000)
    low, high = percentile_interval(samples, 0.95, n)
    expected = student.ppf(0.975, n - 1)
    assert (-low, high) == pytest.approx((expected, expected), rel=0.02)


def test_the_jackknife_of_a_mean_gives_the_t_interval() -> None:
    values = np.array([0.2, 0.5, 0.4, 0.7])
    without = (values.sum() - values) / 3
    samples = Samples(np.full(10, values.mean()), None, without, 4)
    interval = resampling_interval(float(values.mean()), samples, 0.95, UNIT)
    half = student.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (interval.low, interval.high) == pytest.approx((0.45 - half, 0.45 + half))


def test_paired_difference_of_scores_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(150), rng.random(150) ** 2
    slow = []
    for counts in resample_counts(150, 100, seed=4):
        index = np.repeat(np.arange(150), counts.astype(int))
        slow.append(a[index].mean() - b[index].mean())
    got = paired_difference(a, b, seed=4, resamples=100)
    assert got.value == pytest.approx(a.mean() - b.mean())
    assert (got.low, got.high) == pytest.approx(percentile_interval(np.array(slow), 0.95, 150))


def test_paired_difference_of_right_answers_takes_counts() -> None:
    a, b = np.array([True, True, False]), np.array([True, False, False])
    assert paired_difference(a, b, 0) == paired_proportions_interval(1, 0, 3, 0.95)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=60))
def test_auroc_equals_scikit_learn(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s for s, _ in drawn], float), np.array([p for _, p in drawn])
    found = auroc(scores, positive, 0.95)
    if positive.all() or not positive.any():
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05


@pytest.mark.parametrize(("area", "apart"), [(0.76025, 1.0), (0.99, 3.2899)])
def test_the_interval_of_auroc_covers(area: float, apart: float) -> None:
    """Two normal distributions d standard deviations apart have the area Phi(d / sqrt 2)."""
    random = np.random.default_rng(0)
    positive = np.arange(100) < 40
    found = [auroc(random.normal(apart * positive), positive, 0.95) for _ in range(400)]
    held = np.mean([f is not None and f.low <= area <= f.high for f in found])
    assert held > 0.91


def test_the_interval_of_auroc_is_not_empty_where_all_are_told_apart() -> None:
    found = auroc(np.arange(20.0), np.arange(20) >= 10, 0.95)
    assert found is not None and (found.value, found.high) == (1, 1) and 0.6 < found.low < 0.9
