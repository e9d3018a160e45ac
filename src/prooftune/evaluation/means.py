"""Means of bounded scores, such as those of retrieval or of a judge, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from prooftune.evaluation.intervals import SIGNED, UNIT, Interval, resampling_interval
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups, mean_prior, resample


def mean_figures(
    scores: Mapping[str, Floats],
    resamples: int,
    confidence: float,
    seed: int,
    groups: Groups | None = None,
) -> dict[str, dict[str, float]]:
    """``value``, ``low`` and ``high`` of every mean.

    Args:
        scores: by name, from 0 to 1, [n] each, of the same examples.
        resamples: of each kind.
        confidence: level of the intervals.
        seed: of the resampling.
        groups: the groups of the examples.
    """
    tables = [np.stack([np.ones(len(s)), s], axis=1) for s in scores.values()]
    # A number of its own for every score: the same weights, but independent outcomes of the
    # pseudo-examples.
    priors = [mean_prior(resamples, seed, number) for number in range(len(tables))]
    figures = {}
    drawn = resample(tables, resamples, seed, groups, priors)
    for (name, values), part in zip(scores.items(), drawn, strict=True):
        interval = resampling_interval(
            float(values.mean()), part.map(_mean)["mean"], confidence, UNIT
        )
        figures[name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return figures


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often and from what to resample.

    Attributes:
        resamples: of each kind.
        confidence: level of the intervals, 0 to 1.
        seed: of the resampling.
    """

    resamples: int
    confidence: float
    seed: int


def bounded_mean(
    values: Floats,
    bounds: tuple[float, float],
    resampling: Resampling,
    groups: Groups | None = None,
) -> Interval | None:
    """Mean of scores [n] on any scale, with its interval; None without scores.

    Args:
        values: the scores.
        bounds: lowest and highest possible score.
        resampling: number, level and seed.
        groups: the groups of the examples.
    """
    if len(values) == 0:
        return None
    low, high = bounds
    scaled = (values - low) / (high - low)
    figure = mean_figures(
        {"": scaled}, resampling.resamples, resampling.confidence, resampling.seed, groups
    )[""]
    ends = (low + (high - low) * figure[name] for name in ("value", "low", "high"))
    return Interval(*ends)


def bounded_mean_difference(
    first: Floats,
    second: Floats,
    bounds: tuple[float, float],
    resampling: Resampling,
    groups: Groups | None = None,
) -> Interval | None:
    """Paired difference of two means of scores [n], first minus second; otherwise as
    `bounded_mean`. The difference of the exchanged scores has the interval of opposite sign."""
    if len(first) == 0:
        return None
    low, width = bounds[0], bounds[1] - bounds[0]
    ones = np.ones(len(first))
    tables = [np.stack([ones, (side - low) / width], axis=1) for side in (first, second)]
    priors = [mean_prior(resampling.resamples, resampling.seed, number) for number in range(2)]
    # Each score takes either of the two priors once, with the same weights of examples. With one
    # prior each, the interval would depend on which score comes first.
    drawn = [
        part.map(_mean)["mean"]
        for part in resample(
            [*tables, *tables],
            resampling.resamples,
            resampling.seed,
            groups,
            [*priors, *reversed(priors)],
        )
    ]
    samples, exchanged = drawn[0] - drawn[1], drawn[2] - drawn[3]
    if samples.posterior is not None and exchanged.posterior is not None:
        both = np.concatenate([samples.posterior, exchanged.posterior])
        samples = replace(samples, posterior=both)
    value = float((first - second).mean()) / width
    ends = resampling_interval(value, samples, resampling.confidence, SIGNED)
    return Interval(width * ends.value, width * ends.low, width * ends.high)


def _mean(summed: Floats) -> dict[str, Floats]:
    return {"mean": np.asarray(summed[..., 1] / summed[..., 0])}
