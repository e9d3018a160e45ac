"""The content of ``scores.json``: all variants, paired comparisons, verdict, changed examples."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, cast

from prooftune.evaluation.score_types.costs import CostScores
from prooftune.evaluation.score_types.figures import Bounds, Estimate, Figure
from prooftune.evaluation.score_types.instructions import InstructionScores
from prooftune.evaluation.score_types.judge import JudgeScores
from prooftune.evaluation.score_types.label_errors import LabelErrors
from prooftune.evaluation.score_types.languages import LanguageResults
from prooftune.evaluation.score_types.learning_curve import LearningCurves
from prooftune.evaluation.score_types.search import SearchResults
from prooftune.evaluation.score_types.slices import ErrorAnalysis
from prooftune.evaluation.score_types.variants import VariantMeasurements

Outcome = Literal["wins", "mixed", "undecided", "loses", "alone", "not-tuned"]
"""A verdict on the judged variant: see `Verdict`."""


PairOutcome = Literal["beats", "undecided", "loses"]
"""A comparison from the judged variant's point of view."""


Worthwhile = Literal["better", "worse", "equivalent", "undecided"]
"""A difference against the smallest worthwhile one."""


class RowsDifference(Bounds):
    """A difference if every row counted alone: its value, interval and p-value."""

    value: float
    p: float


class Comparison(TypedDict):
    """A paired comparison: variant ``a`` minus variant ``b`` (`evaluation.comparisons.compare`).

    The differences stand beside these keys, by metric: `metric_difference`.
    """

    a: str
    b: str
    n: int
    only_a: int
    only_b: int
    p: float
    p_holm: float
    significant: bool
    level: float
    minimum_detectable_difference: float | None
    by_rows: NotRequired[RowsDifference]
    worthwhile: NotRequired[Worthwhile]


class OpposedMetric(Estimate):
    """A metric that moves against the primary one."""

    metric: str


class Reference(TypedDict):
    """A comparison with one reference, from the judged variant's point of view."""

    variant: str
    role: str
    outcome: PairOutcome
    difference: Estimate
    worthwhile: Worthwhile | None
    opposed: list[OpposedMetric]
    p_holm: float
    minimum_detectable_difference: float | None


class VerdictFacts(TypedDict):
    """The verdict without its sentences; the keys are explained at `evaluation.verdict.verdict`."""

    outcome: Outcome
    winner: str
    best_tuned: str | None
    baseline: str | None
    beats: dict[str, bool | None] | None
    against: list[Reference]
    better: list[Reference]
    n: int


class Verdict(VerdictFacts):
    """The verdict, in a few words (``headline``) and with its figures (``sentence``)."""

    headline: str
    sentence: str


class ShownOutput(TypedDict):
    """A variant's output for a changed example."""

    output: str
    valid: bool
    probability: float | None


class ChangedExample(TypedDict):
    """An example that became right or wrong, with the sources that the new answer cites."""

    id: str
    text: NotRequired[str]
    target: str | None
    before: ShownOutput
    after: ShownOutput
    sources: NotRequired[list[str]]


class ChangedSide(TypedDict):
    """Number of changed examples, and the surest of them."""

    count: int
    examples: list[ChangedExample]


class ChangedExamples(TypedDict):
    """Examples that tuning put right (``fixed``) or broke, between two variants."""

    before: str
    after: str
    fixed: ChangedSide
    broken: ChangedSide


class GroupFacts(TypedDict):
    """Number of groups, the column that makes them, and the size of the largest."""

    count: int
    by: str
    largest: int


class Setup(TypedDict):
    """What was scored: the task, the primary metric, and the groups of the test examples."""

    task: str
    primary: str
    groups: GroupFacts | None


class Measurements(Setup):
    """The figures of all variants, before a verdict."""

    primary_title: str
    worthwhile: float | None
    n: int
    validation_n: int
    seed: int
    resamples: int
    confidence: float
    simultaneous_confidence: float
    labels: list[str]
    support: dict[str, int]
    cardinality: NotRequired[float]
    target_accuracy: NotRequired[float | None]
    notes: list[str]
    variants: dict[str, VariantMeasurements]
    comparisons: list[Comparison]
    languages: NotRequired[LanguageResults | None]


class Scores(Measurements):
    """The content of ``scores.json``; with `costs` in ``report.json``."""

    verdict: Verdict
    changed: ChangedExamples | None
    instructions: NotRequired[InstructionScores | None]
    judge: NotRequired[JudgeScores]
    search: NotRequired[SearchResults | None]
    learning_curve: NotRequired[LearningCurves | None]
    costs: NotRequired[CostScores]
    errors: NotRequired[ErrorAnalysis | None]
    label_errors: NotRequired[LabelErrors | None]


def metric_difference(row: Comparison, metric: str) -> Figure | None:
    """The difference of one metric; None if it was not compared."""
    # A `TypedDict` cannot say that all other keys of a comparison are metrics.
    return cast("Figure | None", row.get(metric))
