"""The figures of one variant in ``scores.json``. Shares are 0 to 1, log-loss is in nats."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, cast

from prooftune.evaluation.score_types.figures import CalibrationError, Estimate, Figure


class LabelFigures(TypedDict):
    """The metrics of one label."""

    precision: Figure
    recall: Figure
    f1: Figure


class LabelScores(LabelFigures):
    """One label: examples that have it, examples that are given it, and its metrics."""

    label: str
    support: int
    predicted: int


class ConfusionMatrix(TypedDict):
    """Counts [targets, predictions]; the last column is ``(invalid)`` where outputs were."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


# In this form because `from` is a keyword.
ReliabilityBin = TypedDict(
    "ReliabilityBin",
    {
        "from": float,
        "to": float,
        "n": int,
        "accuracy": float,
        "low": float,
        "high": float,
        "confidence": float,
    },
)
"""A confidence bin: its range, examples, accuracy with its interval, and mean confidence."""


Side = Literal["before", "after"]
"""Before and after temperature scaling."""


class Calibration(TypedDict):
    """How well probabilities match frequencies, before and after temperature scaling."""

    validation_n: int
    ece: dict[Side, CalibrationError]
    log_loss: dict[Side, Figure]
    reliability: dict[Side, list[ReliabilityBin]]


class RiskPoint(TypedDict):
    """Share of examples answered, and share of these answers that are wrong."""

    coverage: float
    risk: float


class RiskCoverage(TypedDict):
    """The risk-coverage curve, and the area under it."""

    aurc: float
    points: list[RiskPoint]


class Abstention(TypedDict):
    """The guaranteed confidence threshold (`evaluation.abstention.abstention`)."""

    target: float
    confidence: float
    threshold: float | None
    reachable: bool
    needed_rows: int | None
    coverage: float
    answered: int
    accuracy: Estimate | None
    grouped: NotRequired[bool]


class ThresholdPoint(TypedDict):
    """F1 on the test questions at a no-answer threshold in nats."""

    threshold: float
    f1: float


class NoAnswerThreshold(TypedDict):
    """The no-answer threshold in nats, chosen on validation questions, and its effect on F1."""

    value: float
    validation_n: int
    f1_without: float
    exact_without: float
    best_f1_on_test: float
    has_answer_f1_without: float | None
    has_answer_f1_always: float | None
    auroc: Estimate | None
    curve: list[ThresholdPoint]


class CitationScores(TypedDict):
    """How good citations are; a metric is undefined where nothing counts for it."""

    answered: int
    signatures: dict[str, str]
    citation_precision: Figure
    citation_recall: Figure
    cited_rate: Figure
    unsupported_rate: Figure
    unknown_citation_rate: Figure


class ProbabilisticFigures(TypedDict):
    """Metrics of probabilities."""

    log_loss: Figure
    brier: Figure
    ece: CalibrationError


class ClassifierFigures(TypedDict):
    """A classifier's metrics with intervals, those of each label, and the confusion matrix."""

    metrics: dict[str, Figure]
    per_class: list[LabelScores]
    confusion: ConfusionMatrix


class OutputCounts(TypedDict):
    """Invalid outputs, truncated inputs and their tokens, and prompt tokens."""

    invalid: int
    truncated: int
    truncated_tokens: int
    prompt_tokens: int


class AnswerCounts(OutputCounts):
    """The same of answers, with abstentions, windows and citations."""

    generated_tokens: int
    windowed: int
    abstained: int
    cited: int
    cited_share: float
    unknown_citations: int


class Trainings(TypedDict):
    """The single trainings of a variant (`evaluation.repeated_trainings.training_facts`)."""

    count: int
    best: int
    validation: list[float | None]
    metrics: dict[str, Figure]


class VariantMeasurements(OutputCounts):
    """The figures of one variant on the test examples.

    Classification has ``per_class``, ``confusion`` and what follows from probabilities; studies
    with several labels per text have ``per_class`` and ``threshold``, the probability from which a
    label is predicted; question answering has ``role``, ``context``, ``no_answer``, ``citations``
    and its counts.
    """

    kind: str
    n: int
    metrics: dict[str, Figure]
    model: NotRequired[str | None]
    missing_languages: NotRequired[list[str] | None]
    role: NotRequired[str]
    context: NotRequired[str | None]
    validation_accuracy: NotRequired[float | None]
    validation_quality: NotRequired[float | None]
    per_class: NotRequired[list[LabelScores]]
    confusion: NotRequired[ConfusionMatrix]
    temperature: NotRequired[float | None]
    calibration: NotRequired[Calibration | None]
    risk_coverage: NotRequired[RiskCoverage | None]
    abstention: NotRequired[Abstention | None]
    invalid_rate: NotRequired[float]
    threshold: NotRequired[float | None]
    no_answer: NotRequired[NoAnswerThreshold | None]
    signatures: NotRequired[dict[str, str]]
    retrieval: NotRequired[dict[str, Any] | None]
    citations: NotRequired[CitationScores | None]
    generated_tokens: NotRequired[int]
    windowed: NotRequired[int]
    abstained: NotRequired[int]
    cited: NotRequired[int]
    cited_share: NotRequired[float]
    unknown_citations: NotRequired[int]
    trainings: NotRequired[Trainings]


def output_count(variant: VariantMeasurements, name: str) -> int:
    """One of the counts of a variant's outputs; 0 where the task has no such count."""
    return cast(int, variant.get(name, 0))
