"""The content of an evaluation's ``report.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from prooftune.evaluation.score_types import (
    CalibrationError,
    Comparison,
    ConfusionMatrix,
    Estimate,
    Figure,
    LabelScores,
    ReliabilityBin,
    Setup,
)


class DifferenceTest(TypedDict):
    """Difference of two independent samples, its p-value (None without a test) and the method."""

    difference: Estimate
    p: float | None
    significant: bool
    method: str


class MetricChange(DifferenceTest):
    """A metric in the study and now, with the numbers of rows."""

    study: Estimate
    now: Estimate
    study_n: int
    n: int


class LabelShare(TypedDict):
    """Share of a label in the study and now, 0 to 1, and their difference."""

    study: float
    now: float
    change: float


class LabelShift(TypedDict):
    """How far label shares moved (`drift.label_shift`); of several labels per text the shares alone
    (`drift.label_set_shift`)."""

    shares: dict[str, LabelShare]
    moved: float | None
    p: float | None
    significant: bool
    method: str


class LengthShift(TypedDict):
    """How text lengths moved (`drift.length_shift`): medians in characters, and the shares of these
    rows in the tenths of the study's test rows, shortest first."""

    study_median: float
    median: float
    shares: list[float]
    moved: float
    p: float | None
    significant: bool
    method: str


class Drift(TypedDict):
    """Change of metrics, of label shares and of text lengths since the study."""

    metrics: dict[str, MetricChange]
    labels: LabelShift | None
    lengths: LengthShift | None


class SliceScores(TypedDict):
    """The primary metric on the rows with one value of a column, and its difference from that of
    all other rows (None with a single slice); ``p`` is Holm-adjusted over the column's values, and
    None where the metric has no test."""

    value: str
    n: int
    figure: Figure
    difference: Estimate | None
    p: float | None
    significant: bool


class AbstentionCheck(TypedDict):
    """The bundle's confidence threshold on these rows (`measures.measure_abstention`)."""

    threshold: float | None
    target: float | None
    coverage: float
    answered: int
    accuracy: Estimate | None
    reached: bool | None


class OneSidedCalibration(TypedDict):
    """Calibration of probabilities after the bundle's temperature."""

    ece: CalibrationError
    log_loss: Figure
    reliability: list[ReliabilityBin]


class BundleComparison(Comparison):
    """A paired comparison with another bundle, and the name of its test."""

    test: str


class EvaluationFacts(Setup):
    """All figures of an evaluation; metrics as in `evaluation.score_types.VariantMeasurements`."""

    bundle: str
    study: str | None
    variant: str
    file: str
    prooftune_version: str
    n: int
    seed: int
    resamples: int
    confidence: float
    labels: list[str]
    support: dict[str, int]
    notes: list[str]
    metrics: dict[str, Figure]
    per_class: NotRequired[list[LabelScores]]
    confusion: NotRequired[ConfusionMatrix]
    calibration: NotRequired[OneSidedCalibration | None]
    invalid: int
    truncated: int
    abstention: AbstentionCheck | None
    drift: Drift
    slices: dict[str, list[SliceScores]]
    against: str | None
    comparison: BundleComparison | None
    against_metrics: NotRequired[dict[str, Figure]]
    verdict: str
