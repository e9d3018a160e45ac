"""Resampling of test examples: the bootstrap, the Bayesian bootstrap and the jackknife, by rows or
by groups of rows.

Every metric of this package is a function of column sums over examples (see `metrics`), and sums
are linear in the weights of the examples. So all resamples of all variants are a few matrix
products, and every variant is measured on the same resamples: differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prooftune.evaluation.metrics import Floats, Ints, Outcomes, Sums, columns, sums

CHUNK_BYTES = 64_000_000
"""Memory for the resampling weights that are held at one time."""

_POSTERIOR, _PRIOR, _OUTCOMES = 1, 2, 3
"""Names of the random streams besides the bootstrap's own."""

PRIOR = 0.5
"""Pseudo-examples that are right, and as many that are wrong, for every label or kind of question:
Jeffreys' prior of a proportion."""
_PARTS = 4
"""A prior's weight is spread over this many pseudo-examples of random outcomes."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups (clusters) in which examples come, and which are resampled as a whole.

    Attributes:
        index: number of each example's group, int [n].
        count: number of groups G.
    """

    index: Ints
    count: int

    def sums(self, table: Floats) -> Floats:
        """Column sums of every group: [n, c] -> [G, c]."""
        summed = np.zeros((self.count, table.shape[1]))
        # `summed[index] += table` would add one row per group: it ignores repeated indices.
        np.add.at(summed, self.index, table)
        return summed


def groups_of(keys: Sequence[Hashable]) -> Groups | None:
    """Groups of examples with equal keys; None where every example is its own group."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    # With one example per group, groups change nothing and would cost a jackknife.
    return None if len(numbers) == len(keys) else Groups(index, len(numbers))


@dataclass(frozen=True, slots=True)
class Resampled:
    """Column sums of one table over all resamples.

    Attributes:
        bootstrap: of the bootstrap (Efron 1979), [R, c].
        posterior: of the Bayesian bootstrap (Rubin 1981), with the pseudo-examples of the prior;
            [R, c]. None where there is no prior.
        jackknife: without each group in turn, [G, c]; None where examples do not come in groups.
        units: what was resampled: the number of examples, or of groups.
        by_rows: of the bootstrap of single examples, [R, c], where groups were resampled.
    """

    bootstrap: Floats
    posterior: Floats | None
    jackknife: Floats | None
    units: int
    by_rows: Floats | None = None

    def map(self, metrics: Callable[[Floats], Mapping[str, Floats]]) -> dict[str, Samples]:
        """Metrics of every resample by name."""
        own = metrics(self.bootstrap)
        others = [
            {} if part is None else metrics(part)
            for part in (self.posterior, self.jackknife, self.by_rows)
        ]
        return {
            name: Samples(
                values, others[0].get(name), others[1].get(name), self.units, others[2].get(name)
            )
            for name, values in own.items()
        }


@dataclass(frozen=True, slots=True)
class Samples:
    """One metric over all resamples; the fields are those of `Resampled`, [R] and [G]."""

    bootstrap: Floats
    posterior: Floats | None
    jackknife: Floats | None
    units: int
    by_rows: Floats | None = None

    def __sub__(self, other: Samples) -> Samples:
        """The difference of two variants, measured on the same resamples."""
        return Samples(
            self.bootstrap - other.bootstrap,
            _minus(self.posterior, other.posterior),
            _minus(self.jackknife, other.jackknife),
            self.units,
            _minus(self.by_rows, other.by_rows),
        )

    def at(self, index: int) -> Samples:
        """One column of a metric that has a value for every label, [R, L]."""
        parts = [
            None if part is None else part[:, index]
            for part in (self.posterior, self.jackknife, self.by_rows)
        ]
        return Samples(self.bootstrap[:, index], parts[0], parts[1], self.units, parts[2])


def mean_samples(trainings: Sequence[Samples]) -> Samples:
    """The mean of a metric over several trainings, measured on the same resamples of examples."""
    first = trainings[0]

    def mean(parts: Sequence[Floats | None]) -> Floats | None:
        known = [part for part in parts if part is not None]
        return np.mean(known, axis=0) if len(known) == len(parts) else None

    return Samples(
        np.mean([s.bootstrap for s in trainings], axis=0),
        mean([s.posterior for s in trainings]),
        mean([s.jackknife for s in trainings]),
        first.units,
        mean([s.by_rows for s in trainings]),
    )


def _minus(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else first - second


def resample(
    tables: Sequence[Floats],
    resamples: int,
    seed: int,
    groups: Groups | None = None,
    priors: Sequence[Floats] | None = None,
) -> list[Resampled]:
    """Column sums of every resample, the same resamples for all tables.

    Args:
        tables: per-example columns [n, c], the same examples in the same order; c may differ.
        resamples: R, the number of resamples of each kind.
        seed: of the resampling.
        groups: resample these instead of single examples.
        priors: for each table, the sums of its pseudo-examples in every resample, [R, c]; None: no
            Bayesian bootstrap.
    """
    if not tables:
        return []
    stacked = np.concatenate(list(tables), axis=1)
    units = groups.sums(stacked) if groups else stacked
    cuts = np.cumsum([table.shape[1] for table in tables])[:-1]
    # One product for the columns of all variants: weights are drawn once per resample.
    drawn = np.split(_weighted(units, resamples, seed, _bootstrap_weights), cuts, axis=1)
    posterior: list[Floats | None] = [None] * len(tables)
    if priors is not None:
        weighted = np.split(_weighted(units, resamples, seed, _posterior_weights), cuts, axis=1)
        # The prior's weights are on the scale of the data's: an example's weight has the mean 1.
        posterior = [part + prior for part, prior in zip(weighted, priors, strict=True)]
    without: Sequence[Floats | None] = [None] * len(tables)
    alone: Sequence[Floats | None] = [None] * len(tables)
    if groups:
        # Sums without a group are the total minus the group's own, so no loop is needed.
        without = np.split(units.sum(axis=0) - units, cuts, axis=1) if len(units) > 1 else without
        alone = np.split(_weighted(stacked, resamples, seed, _bootstrap_weights), cuts, axis=1)
    return [
        Resampled(bootstrap, post, jack, len(units), rows)
        for bootstrap, post, jack, rows in zip(drawn, posterior, without, alone, strict=True)
    ]


def resampled(tables: Sequence[Floats], resamples: int, seed: int) -> list[Floats]:
    """Column sums of every bootstrap resample of single examples, [R, c] for each table."""
    return [part.bootstrap for part in resample(tables, resamples, seed)]


def bootstrap(variants: Sequence[Outcomes], resamples: int, seed: int) -> list[Sums]:
    """The sums of every bootstrap resample [R], for every variant, on the same resamples."""
    drawn = resampled([columns(v) for v in variants], resamples, seed)
    return [
        sums(part, v.classes, v.scale, v.costs) for part, v in zip(drawn, variants, strict=True)
    ]


def resample_counts(n: int, resamples: int, seed: int, start: int = 0) -> Floats:
    """How often each of `n` examples is drawn in each bootstrap resample, float [resamples, n].

    Every resample has its own random stream, so that it is the same however the work is cut into
    chunks, and the same for all variants.
    """
    return np.stack([_bootstrap_weights(n, [seed, start + row]) for row in range(resamples)])


def posterior_weights(n: int, resamples: int, seed: int) -> Floats:
    """Weights of `n` examples in each resample of the Bayesian bootstrap, float [resamples, n]."""
    return np.stack([_posterior_weights(n, [seed, row]) for row in range(resamples)])


def _bootstrap_weights(n: int, stream: Sequence[int]) -> Floats:
    drawn = np.random.default_rng(stream).integers(0, n, size=n)
    return np.bincount(drawn, minlength=n).astype(np.float64)


def _posterior_weights(n: int, stream: Sequence[int]) -> Floats:
    # Exponential weights, divided by their sum, are a draw from the flat Dirichlet distribution.
    return np.random.default_rng([*stream, _POSTERIOR]).standard_exponential(n)


def _weighted(
    units: Floats, resamples: int, seed: int, weights: Callable[[int, Sequence[int]], Floats]
) -> Floats:
    """Sums of the units' columns [U, c] by the weights of every resample, [R, c]."""
    n, result = len(units), np.empty((resamples, units.shape[1]))
    chunk = max(1, CHUNK_BYTES // (8 * n))
    for start in range(0, resamples, chunk):
        rows = range(start, min(start + chunk, resamples))
        result[rows.start : rows.stop] = np.stack([weights(n, [seed, r]) for r in rows]) @ units
    return result


def pseudo_examples(strata: int, resamples: int, seed: int, variant: int) -> tuple[Floats, Floats]:
    """Weights of the right and of the wrong pseudo-examples in every resample, [R, strata] each.

    They are what makes an interval honest where the data hold no mistake, or nothing at all, of
    some label: together with the Bayesian bootstrap they are draws from a Dirichlet posterior with
    `PRIOR` right and `PRIOR` wrong examples of every stratum. All variants see the same
    pseudo-examples, and each is right or wrong on them independently of the others.

    Args:
        strata: labels, or kinds of questions.
        resamples: R.
        seed: of the resampling.
        variant: number of the variant in the study.
    """
    shape = (resamples, strata, _PARTS)
    # The parts of a stratum sum to Gamma(2 * PRIOR), the weight of a Jeffreys prior. Parts can be
    # right for one variant and wrong for another; a single one would be all or nothing.
    weights = np.random.default_rng([seed, _PRIOR]).gamma(2 * PRIOR / _PARTS, size=shape)
    right = np.random.default_rng([seed, _OUTCOMES, variant]).integers(0, 2, size=shape) > 0
    hits = (weights * right).sum(axis=-1)
    return hits, weights.sum(axis=-1) - hits


def label_prior(
    classes: int,
    width: int,
    resamples: int,
    seed: int,
    variant: int,
    scale: Floats | None = None,
    costs: Floats | None = None,
) -> Floats:
    """Sums of a classifier's pseudo-examples for `resample`: [R, width], as `metrics.columns` has
    them. A wrong one is spread evenly over the other labels; `scale` is that of ordinal labels, and
    `costs` those of errors."""
    right, wrong = pseudo_examples(classes, resamples, seed, variant)
    targets = right + wrong
    # What is wrong for label k counts as predicted for each of the other labels in equal parts.
    others = (wrong.sum(axis=1, keepdims=True) - wrong) / max(classes - 1, 1)
    parts = [targets.sum(axis=1, keepdims=True), right, targets, right + others]
    if scale is not None:
        distances = np.abs(scale[:, None] - scale)
        for power in (1, 2):
            mean_error = (distances**power).sum(axis=1) / max(classes - 1, 1)
            parts.append((wrong * mean_error).sum(axis=1, keepdims=True))
    if costs is not None:
        of_right = np.diag(costs)
        mean_cost = (costs.sum(axis=1) - of_right) / max(classes - 1, 1)
        parts.append((right * of_right + wrong * mean_cost).sum(axis=1, keepdims=True))
    known = np.concatenate(parts, axis=1)
    # Columns of probabilities: nothing is supposed of these.
    return np.pad(known, ((0, 0), (0, width - known.shape[1])))


def mean_prior(resamples: int, seed: int, variant: int) -> Floats:
    """Sums of the pseudo-examples of a mean of scores from 0 to 1, [R, 2]: how many, and their
    score."""
    right, wrong = pseudo_examples(1, resamples, seed, variant)
    return np.concatenate([right + wrong, right], axis=1)
