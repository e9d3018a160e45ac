"""Resampling: pairing, groups, and the posterior as a Dirichlet distribution."""

import numpy as np
import pytest

from prooftune.evaluation import resampling
from prooftune.evaluation.resampling import (
    groups_of,
    label_prior,
    mean_prior,
    pseudo_examples,
    resample,
)


def test_groups_are_numbered_and_single_examples_make_none() -> None:
    groups = groups_of(["b", "a", "b", "c"])
    assert groups is not None
    assert (groups.index.tolist(), groups.count) == ([0, 1, 0, 2], 3)
    assert groups_of(["a", "b", "c"]) is None


def test_resampling_groups_is_resampling_their_sums() -> None:
    table = np.random.default_rng(0).random((30, 3))
    groups = groups_of(list(np.arange(30) // 5))
    assert groups is not None
    (by_group,) = resample([table], 50, 1, groups)
    (plain,) = resample([table.reshape(6, 5, 3).sum(axis=1)], 50, 1)
    np.testing.assert_allclose(by_group.bootstrap, plain.bootstrap)
    assert by_group.jackknife is not None and by_group.units == 6
    np.testing.assert_allclose(by_group.jackknife[2], table.sum(0) - table[10:15].sum(0))
    assert plain.jackknife is None


def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).random((20, 2))
    priors = [np.zeros((30, 2))]
    (whole,) = resample([table], 30, 1, priors=priors)
    monkeypatch.setattr(resampling, "CHUNK_BYTES", 8 * 20 * 7)
    (parts,) = resample([table], 30, 1, priors=priors)
    np.testing.assert_allclose(whole.bootstrap, parts.bootstrap)
    assert whole.posterior is not None and parts.posterior is not None
    np.testing.assert_allclose(whole.posterior, parts.posterior)


@pytest.mark.slow
def test_the_posterior_of_a_proportion_is_that_of_jeffreys() -> None:
    """8 of 10 right: Beta(8.5, 2.5)."""
    table = np.stack([np.ones(10), np.arange(10) < 8], axis=1).astype(float)
    (drawn,) = resample([table], 20_000, 0, priors=[mean_prior(20_000, 0, 0)])
    assert drawn.posterior is not None
    share = drawn.posterior[:, 1] / drawn.posterior[:, 0]
    assert share.mean() == pytest.approx(8.5 / 11, abs=0.004)
    assert share.var() == pytest.approx(8.5 * 2.5 / (11**2 * 12), rel=0.06)


def test_variants_share_pseudo_examples_and_not_their_outcomes() -> None:
    first, second = (pseudo_examples(3, 500, 0, variant) for variant in range(2))
    np.testing.assert_allclose(sum(first), sum(second))
    assert not np.allclose(first[0], second[0])


def test_pseudo_examples_of_labels_are_counted_as_targets_and_predictions() -> None:
    prior = label_prior(3, 12, 100, 0, 0)
    n, hits, targets, predicted = prior[:, 0], prior[:, 1:4], prior[:, 4:7], prior[:, 7:10]
    np.testing.assert_allclose(targets.sum(1), n)
    np.testing.assert_allclose(predicted.sum(1), n)
    assert (hits <= targets).all() and (hits <= predicted + 1e-12).all()
    assert (prior[:, 10:] == 0).all()
