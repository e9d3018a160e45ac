"""Instruction following in ``scores.json``."""

from __future__ import annotations

from typing import TypedDict

from prooftune.evaluation.score_types.figures import Figure


class InstructionDifference(TypedDict):
    """A paired difference in one measure, tuned minus untuned."""

    a: str
    b: str
    measure: str
    difference: Figure
    p_holm: float


class InstructionScores(TypedDict):
    """Shares of ``n`` generated answers by variant and measure, and their differences."""

    n: int
    variants: dict[str, dict[str, Figure]]
    differences: list[InstructionDifference]
