"""The figures of one classifier with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from prooftune.evaluation.comparisons import Measured
from prooftune.evaluation.ece import ece_interval
from prooftune.evaluation.intervals import (
    SIGNED,
    UNIT,
    Interval,
    f1_interval,
    resampling_interval,
    wilson_interval,
)
from prooftune.evaluation.metrics import (
    Floats,
    Outcomes,
    brier_scores,
    confusion,
    log_losses,
    measure,
)
from prooftune.evaluation.resampling import Groups, Samples, resample

PROPORTIONS = ("accuracy", "invalid_rate")
PROBABILISTIC = ("log_loss", "brier", "ece")
BOUNDS = {"mcc": SIGNED, "log_loss": (0.0, inf), "brier": (0.0, 2.0)}
"""Ranges of metrics that are not shares."""
"""Ranges of metrics that are not shares."""


def variant_figures(
    test: Outcomes,
    measured: Measured,
    labels: list[str],
    level: float,
    probabilistic: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Metrics of one training of a variant with their intervals, for each label too, and the
    confusion matrix.

    Args:
        test: predictions on the test examples.
        measured: the same with resamples.
        labels: all labels.
        level: of the intervals.
        probabilistic: from `probabilistic_figures`; None without probabilities.
    """
    values, by_class = measure(test)
    figures: dict[str, Any] = {}
    for name, value in values.items():
        if name not in PROBABILISTIC:
            figures[name] = _interval(name, value, measured.samples[name], len(test), level)
    figures |= probabilistic or {}
    classes = [
        {
            "label": label,
            "support": int((test.targets == i).sum()),
            "predicted": int((test.predicted == i).sum()),
            **_of_label(test, i, {k: float(v[i]) for k, v in by_class.items()}, measured, level),
        }
        for i, label in enumerate(labels)
    ]
    table = confusion(test)
    return {
        "metrics": figures,
        "per_class": classes,
        "confusion": {
            "rows": labels,
            "columns": [*labels, "(invalid)"][: table.shape[1]],
            "counts": table.tolist(),
        },
    }


def _interval(name: str, value: float, samples: Samples, n: int, level: float) -> dict[str, Any]:
    rows = wilson_interval(round(value * n), n, level) if name in PROPORTIONS else None
    return _widest(value, samples, rows, n, level, BOUNDS.get(name, UNIT))


def _widest(
    value: float,
    samples: Samples,
    rows: tuple[float, float] | None,
    n: int,
    level: float,
    bounds: tuple[float, float],
) -> dict[str, Any]:
    """The interval of single examples where one is known, and without groups only that; else, or
    if it is wider, the resampling interval. With groups also the interval of rows alone."""
    by_groups = samples.by_rows is not None
    found = resampling_interval(value, samples, level, bounds)
    ends: dict[str, Any] = {"value": value, "low": found.low, "high": found.high}
    if rows is not None:
        low, high = rows
        ends |= {"low": low, "high": high}
        if by_groups and not np.isnan(found.low):
            ends |= {"low": min(low, found.low), "high": max(high, found.high)}
    elif by_groups and samples.by_rows is not None:
        alone = resampling_interval(value, Samples(samples.by_rows, None, None, n), level, bounds)
        rows = alone.low, alone.high
    if by_groups and rows is not None:
        ends["by_rows"] = {"low": rows[0], "high": rows[1]}
    return ends


def _of_label(
    test: Outcomes, label: int, values: Mapping[str, float], measured: Measured, level: float
) -> dict[str, Any]:
    """Precision, recall and F1 of one label: proportions, or functions of one."""
    target, given = test.targets == label, test.predicted == label
    hits = int((target & given).sum())
    rows = {
        "precision": wilson_interval(hits, int(given.sum()), level),
        "recall": wilson_interval(hits, int(target.sum()), level),
        "f1": f1_interval(hits, int((target | given).sum()), level),
    }
    none = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    return {
        name: none
        if np.isnan(values[name])
        else _widest(
            values[name],
            measured.samples[f"class_{name}"].at(label),
            ends,
            len(target),
            level,
            UNIT,
        )
        for name, ends in rows.items()
    }


def probabilistic_figures(
    outcomes: Mapping[str, Outcomes],
    resamples: int,
    level: float,
    seed: int,
    groups: Groups | None,
) -> dict[str, dict[str, Any]]:
    """Log-loss, Brier score and calibration error with their intervals, for each of several
    outcomes on the same examples that have probabilities. ``ece`` is without bias; its ``plain``
    is the figure as it is usually given."""
    tables = [
        np.stack([np.ones(len(o)), log_losses(o), brier_scores(o)], axis=1)
        for o in outcomes.values()
    ]
    drawn = resample(tables, resamples, seed, groups)
    figures = {}
    for (name, found), table, part in zip(outcomes.items(), tables, drawn, strict=True):
        samples = part.map(_mean_losses)
        figures[name] = {
            key: _ends(resampling_interval(float(value), samples[key], level, BOUNDS[key]))
            for key, value in _mean_losses(table.sum(axis=0)).items()
        }
        ece = ece_interval(found, level, seed)
        figures[name]["ece"] = {**_ends(ece), "plain": measure(found)[0]["ece"]}
    return figures


def _mean_losses(summed: Floats) -> dict[str, Floats]:
    """Means from sums of examples, log-loss and Brier score, [..., 3]."""
    return {
        "log_loss": summed[..., 1] / summed[..., 0],
        "brier": summed[..., 2] / summed[..., 0],
    }


def _ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
