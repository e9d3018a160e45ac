"""Results by language in ``scores.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from prooftune.evaluation.score_types.figures import Figure


class LanguageRow(TypedDict):
    test: int
    train: int
    variants: Mapping[str, Mapping[str, Figure]]


"""Numbers of rows of one language, and the metrics of every variant on its test rows."""

# In this form because `with` is a keyword.
LeftOut = TypedDict(
    "LeftOut",
    {
        "language": str,
        "with": str,
        "without": str,
        "n": int,
        "difference": Figure | None,
        "p": float,
    },
)
"""A variant that was trained on a language, and one that was not, on its test rows."""


class LanguageResults(TypedDict):
    """Results by language, and leave-one-language-out differences."""

    rows: dict[str, LanguageRow]
    left_out: list[LeftOut]
