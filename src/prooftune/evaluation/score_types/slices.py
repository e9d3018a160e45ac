"""Slices of the test rows in ``scores.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from prooftune.evaluation.score_types.figures import Estimate


class RivalDifference(TypedDict):
    """Judged minus rival on the rows of a slice, and on the other rows; ``p`` is adjusted over all
    tests of the study. ``lost``: significantly worse than the rival, and than elsewhere."""

    variant: str
    difference: Estimate
    elsewhere: float
    p: float
    lost: bool


class ErrorSlice(TypedDict):
    """A slice: what its rows have in common, the judged variant's mean quality (accuracy, or F1 of
    label sets or answers) there and on the other rows. ``weak``: significantly worse than on the
    other rows."""

    attribute: str
    value: str
    n: int
    figure: Estimate
    rest: float
    p: float
    weak: bool
    against: list[RivalDifference]


class SliceScores(TypedDict):
    """All slices of a study, the worst first, and the number of tests that were corrected for;
    ``rare_values``: metadata column -> values with too few rows for a slice."""

    judged: str
    rivals: list[str]
    tests: int
    slices: list[ErrorSlice]
    rare_values: NotRequired[dict[str, list[str]]]


class ConfusionExample(TypedDict):
    """A test row that was confused, and the probability of the wrong label, if any."""

    id: str
    text: NotRequired[str]
    probability: float | None


class Confusion(TypedDict):
    """A true label, the label predicted instead, how often, and how often every rival does the
    same."""

    label: str
    predicted: str
    count: int
    share: float
    rivals: dict[str, int]
    examples: list[ConfusionExample]


class ErrorAnalysis(TypedDict):
    """Where the judged variant fails."""

    slices: SliceScores
    confusions: list[Confusion]
