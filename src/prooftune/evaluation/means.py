"""Means of scores between 0 and 1, such as those of retrieval, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prooftune.evaluation.intervals import UNIT, resampling_interval
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


def _mean(summed: Floats) -> dict[str, Floats]:
    return {"mean": np.asarray(summed[..., 1] / summed[..., 0])}
