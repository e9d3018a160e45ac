"""Learning curves in ``scores.json``; metrics are 0 to 1."""

from __future__ import annotations

from typing import TypedDict

from prooftune.evaluation.score_types.figures import Estimate


class CurvePoint(Estimate):
    """The metric of a variant trained on a share of the training rows; of several subsets the
    mean. The interval is over test rows."""

    share: float
    rows: int
    subsets: int


class CurveExtrapolation(Estimate):
    """The expected metric with more training rows, with the interval of one more training, and the
    expected gain over the study's own number of rows."""

    rows: int
    gain: Estimate


class LinePoint(Estimate):
    """The fitted curve, with the interval of the expected metric."""

    rows: float


class VariantCurve(TypedDict):
    """The curve of one variant. ``weights``: Akaike weight of each family; ``subset_sd``: standard
    deviation of the metric between training subsets of one size."""

    points: list[CurvePoint]
    extrapolated: list[CurveExtrapolation]
    line: list[LinePoint]
    weights: dict[str, float]
    subset_sd: float


class LearningCurves(TypedDict):
    """The curves of all variants; ``rows``: training rows of the study."""

    metric: str
    rows: int
    variants: dict[str, VariantCurve]
