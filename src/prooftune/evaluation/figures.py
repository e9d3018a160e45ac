"""The figures of one classifier with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import numpy as np

from prooftune.evaluation.comparison_plan import Measured
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
from prooftune.evaluation.score_types import (
    ClassifierFigures,
    Estimate,
    Figure,
    LabelFigures,
    LabelScores,
    ProbabilisticFigures,
)

PROPORTIONS = ("accuracy", "invalid_rate")
PROBABILISTIC = ("log_loss", "brier", "ece")
BOUNDS = {
    "mcc": SIGNED,
    "quadratic_kappa": SIGNED,
    "mae": (0.0, inf),
    "mean_cost": (0.0, inf),
    "log_loss": (0.0, inf),
    "brier": (0.0, 2.0),
}
"""Ranges of metrics that are not shares."""


def variant_figures(
    test: Outcomes,
    measured: Measured,
    labels: list[str],
    level: float,
    probabilistic: ProbabilisticFigures | None,
) -> ClassifierFigures:
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
    figures: dict[str, Figure] = {}
    for name, value in values.items():
        if name not in PROBABILISTIC:
            figures[name] = _interval(name, value, measured.samples[name], len(test), level)
    if probabilistic is not None:
        figures |= {
            "log_loss": probabilistic["log_loss"],
            "brier": probabilistic["brier"],
            "ece": probabilistic["ece"],
        }
    by_label = [
        _of_label(test, i, {k: float(v[i]) for k, v in by_class.items()}, measured, level)
        for i in range(len(labels))
    ]
    classes: list[LabelScores] = [
        {
            "label": label,
            "support": int((test.targets == i).sum()),
            "predicted": int((test.predicted == i).sum()),
            "precision": by_label[i]["precision"],
            "recall": by_label[i]["recall"],
            "f1": by_label[i]["f1"],
        }
        for i, label in enumerate(labels)
    ]
    table = confusion(test)
    return {
        "metrics": figures,
        "per_class": classes,
        "confusion": {
            "rows": labels,
            # `confusion` has the last column only where outputs were invalid.
            "columns": [*labels, "(invalid)"][: table.shape[1]],
            "counts": table.tolist(),
        },
    }


def _interval(name: str, value: float, samples: Samples, n: int, level: float) -> Figure:
    # A share times n is a count, but for rounding errors.
    rows = wilson_interval(round(value * n), n, level) if name in PROPORTIONS else None
    return widest_figure(value, samples, rows, n, level, BOUNDS.get(name, UNIT))


def widest_figure(
    value: float,
    samples: Samples,
    rows: tuple[float, float] | None,
    n: int,
    level: float,
    bounds: tuple[float, float],
) -> Figure:
    """The interval of single examples where one is known, and without groups only that; else, or
    if it is wider, the resampling interval. With groups also the interval of rows alone."""
    by_groups = samples.by_rows is not None
    interval = resampling_interval(value, samples, level, bounds)
    low, high = interval.low, interval.high
    if rows is not None:
        low, high = rows
        # Few groups may agree by chance; that makes nothing surer than single examples would.
        if by_groups and not np.isnan(interval.low):
            low, high = min(low, interval.low), max(high, interval.high)
    elif by_groups and samples.by_rows is not None:
        alone = resampling_interval(value, Samples(samples.by_rows, None, None, n), level, bounds)
        rows = alone.low, alone.high
    if by_groups and rows is not None:
        return {
            "value": value,
            "low": low,
            "high": high,
            "by_rows": {"low": rows[0], "high": rows[1]},
        }
    return {"value": value, "low": low, "high": high}


def _of_label(
    test: Outcomes, label: int, values: Mapping[str, float], measured: Measured, level: float
) -> LabelFigures:
    """Precision, recall and F1 of one label: proportions, or functions of one."""
    target, given = test.targets == label, test.predicted == label
    hits = int((target & given).sum())
    rows = {
        "precision": wilson_interval(hits, int(given.sum()), level),
        "recall": wilson_interval(hits, int(target.sum()), level),
        "f1": f1_interval(hits, int((target | given).sum()), level),
    }

    def figure(name: str) -> Figure:
        # A label that is never given has no precision, and one without targets no recall.
        if np.isnan(values[name]):
            return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
        samples = measured.samples[f"class_{name}"].at(label)
        return widest_figure(values[name], samples, rows[name], len(target), level, UNIT)

    return {"precision": figure("precision"), "recall": figure("recall"), "f1": figure("f1")}


def probabilistic_figures(
    outcomes: Mapping[str, Outcomes],
    resamples: int,
    level: float,
    seed: int,
    groups: Groups | None,
) -> dict[str, ProbabilisticFigures]:
    """Log-loss, Brier score and calibration error with their intervals, for each of several
    outcomes on the same examples that have probabilities. ``ece`` is without bias; its ``plain``
    is the figure as it is usually given."""
    tables = [
        np.stack([np.ones(len(o)), log_losses(o), brier_scores(o)], axis=1)
        for o in outcomes.values()
    ]
    drawn = resample(tables, resamples, seed, groups)
    figures: dict[str, ProbabilisticFigures] = {}
    for (name, outcome), table, part in zip(outcomes.items(), tables, drawn, strict=True):
        samples = part.map(_mean_losses)
        losses = {
            key: _ends(resampling_interval(float(value), samples[key], level, BOUNDS[key]))
            for key, value in _mean_losses(table.sum(axis=0)).items()
        }
        ece = ece_interval(outcome, level, seed, groups)
        figures[name] = {
            "log_loss": losses["log_loss"],
            "brier": losses["brier"],
            "ece": {
                "value": ece.value,
                "low": ece.low,
                "high": ece.high,
                "plain": measure(outcome)[0]["ece"],
            },
        }
    return figures


def _mean_losses(summed: Floats) -> dict[str, Floats]:
    """Means from sums of examples, log-loss and Brier score, [..., 3]."""
    return {
        "log_loss": summed[..., 1] / summed[..., 0],
        "brier": summed[..., 2] / summed[..., 0],
    }


def _ends(interval: Interval) -> Estimate:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
