"""Doubtful labels in ``scores.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from prooftune.types import SplitName


class LabelErrorRow(TypedDict):
    """A row whose label is doubtful. ``probability`` is that of the given label,
    ``suggested_probability`` that of the suggested one, both out of sample; ``quality`` is
    `evaluation.label_errors.label_quality`."""

    split: SplitName
    id: str
    text: NotRequired[str]
    label: str
    suggested: str
    probability: float
    suggested_probability: float
    quality: float


class LabelErrorSplit(TypedDict):
    """Rows of a split that were checked, those whose label is doubtful, the models whose
    probabilities were used, and the share of rows that they give the row's own label."""

    rows: int
    flagged: int
    accuracy: NotRequired[float]
    models: list[str]


class LabelErrorComparison(TypedDict):
    """A paired difference in accuracy, ``a`` minus ``b``, under other labels of the flagged test
    rows (`evaluation.label_errors.LabelErrorBounds`). ``sign_certain``: the difference is
    significant with the same sign whatever the labels of the flagged rows are, unadjusted."""

    a: str
    b: str
    value: float
    suggested: float
    low: float
    high: float
    disputed: int
    sign_certain: bool


class LabelErrors(TypedDict):
    """Doubtful labels: by split, the rows worst first (all of them are in ``file``), and how
    far comparisons depend on the flagged test rows."""

    splits: dict[SplitName, LabelErrorSplit]
    rows: list[LabelErrorRow]
    comparisons: list[LabelErrorComparison]
    file: str
