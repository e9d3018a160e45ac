"""Power and sample size of McNemar's exact test, against simulation and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.errors import UsageError
from prooftune.evaluation import power


@pytest.mark.parametrize(
    ("rows", "accuracy", "difference", "agreement", "alpha"),
    [(200, 0.7, 0.1, 0.5, 0.05), (500, 0.9, 0.03, 0.0, 0.05), (60, 0.5, 0.2, 0.8, 0.01)],
)
def test_power_is_the_share_of_simulated_studies_that_reject(
    rows: int, accuracy: float, difference: float, agreement: float, alpha: float
) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    shares = power.discordance(accuracy, difference, agreement)
    draws = np.random.default_rng(0).multinomial(
        rows, [shares.better, shares.worse, 1 - shares.total], size=4000
    )
    pairs, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    rejected = sum(
        int(count)
        for (better, worse), count in zip(pairs, counts, strict=True)
        if better > worse and mcnemar([[0, better], [worse, 0]], exact=True).pvalue <= alpha
    )
    assert power.mcnemar_power(rows, shares, alpha) == pytest.approx(rejected / 4000, abs=0.025)


def test_required_rows_reach_the_power_and_are_near_the_normal_approximation() -> None:
    shares = power.discordance(0.9, 0.02)
    rows = power.required_rows(shares)
    assert rows is not None and power.mcnemar_power(rows, shares) >= 0.8
    assert power.mcnemar_power(rows - 60, shares) < 0.8
    # Connor's formula by hand gives 3,216 rows; the exact test is slightly conservative.
    assert 3216 < rows < 1.04 * 3216


@pytest.mark.slow
@given(st.floats(0.3, 0.95), st.floats(0.02, 0.05), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_detectable_difference_inverts_required_rows(
    accuracy: float, difference: float, agreement: float
) -> None:
    shares = power.discordance(accuracy, difference, agreement)
    rows = power.required_rows(shares)
    assert rows is not None
    detectable = power.detectable_difference(rows, accuracy, agreement)
    assert detectable is not None and detectable <= difference + 1e-3


@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.8, 1.0])
def test_shared_errors_are_those_that_both_make(agreement: float) -> None:
    """By the table of both classifiers: the better one errs on 6%, and the worse one, too, where it
    is not right alone."""
    alone = power.discordance(0.9, 0.04, agreement).worse
    assert power.shared_errors(0.9, agreement) == pytest.approx((0.06 - alone) / 0.06)


def test_more_agreement_needs_fewer_rows() -> None:
    needed = [power.required_rows(power.discordance(0.8, 0.04, a)) for a in (0.0, 0.5, 0.9)]
    assert needed == sorted(needed, key=lambda rows: -(rows or 0)) and len(set(needed)) == 3


def test_a_difference_too_small_to_test_has_no_number_of_rows() -> None:
    assert power.required_rows(power.discordance(0.5, 0.0001)) is None


def test_too_few_rows_show_nothing() -> None:
    assert power.detectable_difference(3, 0.9) is None


@pytest.mark.parametrize(
    ("accuracy", "difference", "agreement"),
    [(0.9, 0.2, 0), (0, 0.1, 0), (0.5, 0, 0), (0.5, 0.1, 2)],
)
def test_impossible_plans_are_refused(accuracy: float, difference: float, agreement: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        power.discordance(accuracy, difference, agreement)
