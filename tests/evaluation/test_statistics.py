"""Intervals and tests against statsmodels, against exact enumeration, and by their properties."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from prooftune.evaluation.statistics import (
    auroc,
    holm,
    mcnemar,
    mcnemar_p,
    minimum_detectable_difference,
    paired_difference,
    percentile_interval,
    resample_counts,
    shifted_interval,
    wilson_interval,
)

probabilities = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 17), (0, 9), (300, 250)]
)
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    expected = reference_mcnemar([[7, b], [c, 11]], exact=True).pvalue if b + c else 1.0
    assert mcnemar_p(b, c) == pytest.approx(min(1.0, expected))


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_a_symmetric_probability(b: int, c: int) -> None:
    assert 0 <= mcnemar_p(b, c) <= 1
    assert mcnemar_p(b, c) == mcnemar_p(c, b)


@settings(deadline=None)
@given(st.lists(probabilities, min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    with patch(
        "gc.collect"
    ):  # statsmodels calls it every time, which takes long where much is loaded
        expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, atol=1e-12)
    assert all(a >= p for a, p in zip(holm(p_values), p_values, strict=True))


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (456, 500), (1, 2)])
def test_wilson_equals_statsmodels(k: int, n: int) -> None:
    assert wilson_interval(k, n, 0.95) == pytest.approx(
        proportion_confint(k, n, method="wilson"), abs=1e-12
    )


@settings(deadline=None)
@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_stays_between_0_and_1(k_n: tuple[int, int]) -> None:
    low, high = wilson_interval(*k_n, 0.95)
    assert 0 <= low <= k_n[0] / k_n[1] <= high <= 1


def test_mcnemar_counts_each_side() -> None:
    a = np.array([True, True, False, False, True])
    b = np.array([True, False, True, False, False])
    test = mcnemar(a, b)
    assert (test.b, test.c, test.p) == (2, 1, 1.0)


def test_paired_difference_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(150) < 0.8, rng.random(150) < 0.6
    slow = []
    for counts in resample_counts(150, 100, seed=4):
        index = np.repeat(np.arange(150), counts.astype(int))
        slow.append(a[index].mean() - b[index].mean())
    got = paired_difference(a, b, seed=4, resamples=100)
    assert got.value == pytest.approx(a.mean() - b.mean())
    assert (got.low, got.high) == pytest.approx(percentile_interval(np.array(slow), 0.95))


def test_percentiles_leave_undefined_resamples_out() -> None:
    assert percentile_interval(np.array([np.nan, 1.0, 2.0, 3.0]), 1.0) == (1.0, 3.0)
    assert np.isnan(percentile_interval(np.array([np.nan]), 0.95)).all()


def test_shifted_interval_contains_the_value_though_resamples_lie_above_it() -> None:
    low, high = shifted_interval(np.random.default_rng(0).normal(0.06, 0.01, 2000), 0.03, 0.95)
    assert 0 <= low < 0.03 < high
    assert high - low == pytest.approx(4 * 0.98 * 0.01, rel=0.1)


def exact_power(n: int, difference: float, discordance: float) -> float:
    """Probability that the exact McNemar test on n pairs gives p < 0.05, by summing over all
    outcomes."""
    wins, losses = (discordance + difference) / 2, (discordance - difference) / 2
    power = 0.0
    for total in range(n + 1):
        weight = binom.pmf(total, n, discordance)
        if weight < 1e-12:
            continue
        b = np.arange(total + 1)
        significant = np.array([mcnemar_p(int(x), int(total - x)) < 0.05 for x in b])
        power += weight * binom.pmf(b, total, wins / (wins + losses))[significant].sum()
    return power


@pytest.mark.parametrize(("n", "discordance"), [(200, 0.3), (500, 0.1), (500, 0.02), (100, 0.02)])
def test_minimum_detectable_difference_has_the_power_it_promises(
    n: int, discordance: float
) -> None:
    """Against full enumeration: the exact test is a little more cautious than the normal formula."""
    difference = minimum_detectable_difference(n, discordance)
    assert 0.70 < exact_power(n, difference, max(discordance, difference)) < 0.87


def test_minimum_detectable_difference_inverts_connors_sample_size() -> None:
    """Connor (1987): psi = 0.4, d = 0.2, two-sided 5%, power 80% needs 77 pairs by his formula 3."""
    za, zb, psi, d = 1.959964, 0.841621, 0.4, 0.2
    n = (za * psi**0.5 + zb * (psi - d**2) ** 0.5) ** 2 / d**2
    assert n == pytest.approx(76, abs=1)
    assert minimum_detectable_difference(round(n), psi) == pytest.approx(d, rel=0.01)


@settings(deadline=None)
@given(st.integers(1, 100_000), probabilities)
def test_minimum_detectable_difference_shrinks_with_more_examples(
    n: int, discordance: float
) -> None:
    smaller = minimum_detectable_difference(4 * n, discordance)
    larger = minimum_detectable_difference(n, discordance)
    assert 0 < smaller <= larger <= 1


def test_enumeration_helper_is_sound() -> None:
    """The multinomial probability of one outcome equals the product used in `exact_power`."""
    direct = multinomial.pmf([3, 1, 6], 10, [0.3, 0.1, 0.6])
    assert direct == pytest.approx(binom.pmf(4, 10, 0.4) * binom.pmf(3, 4, 0.75))


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


def test_the_interval_of_auroc_holds_the_true_area_as_often_as_it_says() -> None:
    """Two normal distributions one standard deviation apart have the area Phi(1/sqrt 2) = 0.7602."""
    random = np.random.default_rng(0)
    positive = np.arange(200) < 80
    found = [auroc(random.normal(positive.astype(float)), positive, 0.9) for _ in range(1000)]
    held = np.mean([f is not None and f.low <= 0.76025 <= f.high for f in found])
    assert 0.87 < held < 0.93


def test_the_interval_of_auroc_is_not_empty_where_all_are_told_apart() -> None:
    found = auroc(np.arange(20.0), np.arange(20) >= 10, 0.95)
    assert found is not None and (found.value, found.high) == (1, 1) and 0.6 < found.low < 0.8
