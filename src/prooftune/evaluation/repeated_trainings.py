"""Figures of a variant that was trained several times: means over its trainings, with intervals
that include the variation between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prooftune.evaluation.comparison_plan import Measured
from prooftune.evaluation.intervals import UNIT, Interval
from prooftune.evaluation.resampling import mean_samples
from prooftune.evaluation.score_types import Bounds, Figure, Trainings, VariantMeasurements
from prooftune.evaluation.trainings import between_trainings, spread, with_trainings
from prooftune.types import VariantResult


def best_training(validation: Sequence[float | None]) -> int:
    """Number of the training, from 0, that is best on validation examples, and that ships. The
    first of equals, and the first where there are no validation examples."""
    # NumPy's argmax takes the first of equals, so without validation rows this is the first
    # training.
    known = [-np.inf if quality is None else quality for quality in validation]
    return int(np.argmax(known))


def shipped_training(result: VariantResult, variant: VariantMeasurements) -> VariantResult:
    """The training of a variant that is best on validation examples.

    Args:
        result: predictions of all trainings.
        variant: the variant's part of the scores.
    """
    trainings = variant.get("trainings")
    return result.trainings[trainings["best"] - 1] if trainings else result


def mean_quality(validation: Sequence[float | None]) -> float | None:
    """Mean over trainings; None where there are no validation examples."""
    known = [quality for quality in validation if quality is not None]
    return float(np.mean(known)) if known else None


def average(trainings: Sequence[Measured]) -> Measured:
    """The measurements of all trainings of a variant together."""
    first = trainings[0]
    if len(trainings) == 1:
        return first
    by_training = {
        name: np.concatenate([m.by_training[name] for m in trainings]) for name in first.by_training
    }
    return Measured(
        table=np.concatenate([m.table for m in trainings]),
        values={name: float(values.mean()) for name, values in by_training.items()},
        samples={
            name: mean_samples([m.samples[name] for m in trainings]) for name in first.samples
        },
        correct=np.concatenate([m.correct for m in trainings]),
        by_training=by_training,
        weights=first.weights,
    )


def procedure_metrics(
    trainings: Sequence[Mapping[str, Figure]],
    level: float,
    bounds: Mapping[str, tuple[float, float]],
) -> dict[str, Figure]:
    """Means over trainings of metrics with their intervals; of a single training its metrics.

    The interval over test examples is the mean of the trainings' own: their errors have the test
    examples in common, so that their mean is hardly more precise than one of them.

    Args:
        trainings: for each training its metrics by name: ``value``, ``low``, ``high``, and
            ``by_rows`` where examples come in groups.
        level: of the intervals.
        bounds: range of metrics that are not shares.

    Returns:
        By name ``value``, ``low``, ``high``; ``sd``, the standard deviation between trainings; and
        ``trainings``, the value of every training.
    """
    if len(trainings) == 1:
        return dict(trainings[0])
    result: dict[str, Figure] = {}
    for name in trainings[0]:
        figures = [metrics[name] for metrics in trainings]
        values = np.array([_number(figure["value"]) for figure in figures])
        limits = bounds.get(name, UNIT)
        interval = _widened(figures, values, level, limits)
        result[name] = {
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "sd": spread(values),
            "trainings": values.tolist(),
        }
        alone = [figure["by_rows"] for figure in figures if "by_rows" in figure]
        # A label's figure may be undefined in some trainings, and has no interval by rows there.
        if len(alone) == len(figures):
            ends = _widened(alone, values, level, limits)
            result[name]["by_rows"] = {"low": ends.low, "high": ends.high}
    return result


def _widened(
    figures: Sequence[Bounds],
    values: np.ndarray,
    level: float,
    limits: tuple[float, float],
) -> Interval:
    low = float(np.mean([_number(f["low"]) for f in figures]))
    high = float(np.mean([_number(f["high"]) for f in figures]))
    rows = Interval(float(values.mean()), low, high)
    return with_trainings(rows, between_trainings(values), level, limits)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def training_facts(
    metrics: Sequence[Mapping[str, Figure]], validation: Sequence[float | None], best: int
) -> Trainings | None:
    """The single trainings of a variant; None for one that is trained once.

    Returns:
        ``count``; ``best``, the number (from 1) of the training that ships;
        ``validation``, the primary metric of every training on validation examples; ``metrics``,
        those of the training that ships, with intervals over test examples alone.
    """
    if len(metrics) == 1:
        return None
    return {
        "count": len(metrics),
        "best": best + 1,
        "validation": list(validation),
        "metrics": dict(metrics[best]),
    }
