"""Tests and power against statsmodels, enumeration and simulation."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from prooftune.evaluation.metrics import Floats, Outcomes, columns, rates, sums
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.significance import (
    holm,
    holm_level,
    least_p,
    mcnemar,
    mcnemar_p,
    minimum_detectable_difference,
    minimum_detectable_mean,
    permutation_p,
    standard_error,
    swap_test,
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


def test_mcnemar_counts_each_side() -> None:
    a = np.array([True, True, False, False, True])
    b = np.array([True, False, True, False, False])
    test = mcnemar(a, b)
    assert (test.b, test.c, test.p) == (2, 1, 1.0)


@settings(deadline=None)
@given(st.lists(probabilities, min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    with patch("gc.collect"):  # statsmodels calls it every time, which takes long
        expected = multipletests(p_values, method="holm")[1]
    np.testing.assert_allclose(holm(p_values), expected, atol=1e-12)
    assert all(a >= p for a, p in zip(holm(p_values), p_values, strict=True))


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


def test_the_level_is_that_of_the_first_test_that_did_not_reject() -> None:
    p_values = [0.001, 0.02, 0.2, 0.5]
    # Holm compares them with 0.05 / 4 (rejects) and 0.05 / 3 (does not, and stops).
    assert holm_level(holm(p_values), 0.05) == pytest.approx(0.05 / 3)
    assert holm_level(holm([0.001]), 0.05) == 0.05


def test_swapping_outputs_of_right_and_wrong_answers_is_mcnemars_test() -> None:
    first = np.array([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    second = np.array([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    assert permutation_p(first - second, 0) == pytest.approx(mcnemar_p(9, 2))


def test_swapping_by_group_goes_through_all_patterns() -> None:
    differences = np.array([0.1, 0.3, 0.2, 0.1, 0.4])
    groups = Groups(np.array([0, 0, 1, 2, 3]), 4)
    p = swap_test(differences[:, None], np.zeros((1, 1)), lambda s: s[..., 0], 0, groups=groups)
    # Only all signs alike are as far from 0: 2 of 16 patterns.
    assert p == 2 / 16 == least_p(4)


@pytest.mark.slow
def test_the_swap_test_of_macro_f1_equals_a_plain_loop_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 8)
    first, second = rng.integers(0, 3, 8), rng.integers(0, 3, 8)

    def macro_f1(predicted: np.ndarray) -> float:
        return float(f1_score(targets, predicted, average="macro", zero_division=0))

    seen, beyond = abs(macro_f1(first) - macro_f1(second)), 0
    for pattern in range(2**8):
        swap = (pattern >> np.arange(8) & 1).astype(bool)
        a, b = np.where(swap, second, first), np.where(swap, first, second)
        beyond += abs(macro_f1(a) - macro_f1(b)) >= seen - 1e-12
    tables = [columns(Outcomes(targets, p, None, 3)) for p in (first, second)]

    def metric(summed: Floats) -> Floats:
        return rates(sums(summed, 3))["macro_f1"]

    assert swap_test(tables[0], tables[1], metric, 0) == pytest.approx(beyond / 2**8)


def exact_power(n: int, difference: float, discordance: float, alpha: float) -> float:
    """Probability that the exact McNemar test on n pairs rejects, by summing over all outcomes."""
    wins, losses = (discordance + difference) / 2, (discordance - difference) / 2
    power = 0.0
    for total in range(1, n + 1):
        b = np.arange(total + 1)
        rejects = np.array([mcnemar_p(int(x), int(total - x)) <= alpha for x in b])
        given = binom.pmf(b, total, wins / (wins + losses))[rejects].sum()
        power += binom.pmf(total, n, discordance) * given
    return power


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 18])
@pytest.mark.parametrize(("n", "discordance"), [(200, 0.3), (100, 0.1), (100, 0.02)])
def test_the_detectable_difference_has_the_power_it_promises(
    n: int, discordance: float, alpha: float
) -> None:
    difference = minimum_detectable_difference(n, discordance, alpha)
    actual = exact_power(n, difference, max(discordance, difference), alpha)
    assert actual == pytest.approx(0.8, abs=1e-3)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 20_000), probabilities)
def test_the_detectable_difference_shrinks_with_more_examples(n: int, discordance: float) -> None:
    smaller = minimum_detectable_difference(4 * n, discordance)
    larger = minimum_detectable_difference(n, discordance)
    assert 0 < smaller <= larger + 1e-4 <= 1 + 1e-4


def test_a_true_difference_of_the_detectable_size_is_found_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    sample = generator.normal(0, 1, 60)
    true = minimum_detectable_mean(*standard_error(sample / sample.std(ddof=1)))
    found = [permutation_p(generator.normal(true, 1, 60), s, 999) < 0.05 for s in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_the_standard_error_by_groups_sums_within_them() -> None:
    """Four rows repeated ten times know no more than four rows."""
    rows = np.array([0.1, -0.2, 0.4, 0.3])
    groups = Groups(np.repeat(np.arange(4), 10), 4)
    assert standard_error(np.repeat(rows, 10), groups) == pytest.approx(standard_error(rows))
    assert standard_error(rows)[0] == pytest.approx(rows.std(ddof=1) / 2)
