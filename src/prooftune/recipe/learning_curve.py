"""The recipe section for the learning curve."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from prooftune.recipe.base import Name, Section

MIN_SHARES = 3
"""A power law with an asymptote has three parameters."""


class LearningCurve(Section):
    """The metric by number of training rows, fitted and extrapolated: what more labels would bring.

    Smaller subsets of the training rows are parts of larger ones, stratified by label.
    """

    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of the training rows, ascending. 1, which is the study itself, is added if missing."""
    variants: list[Name] | None = None
    """Variants that are trained on each share. Default: all that are trained (tfidf, embedding,
    encoder and tuned ones)."""
    subsets: int = Field(default=3, ge=1)
    """Number of different subsets of each share below 1 on which the cheap variants (tfidf,
    embedding) are trained. Their spread is part of the intervals of all variants. Other variants
    are trained on one subset of each share."""

    extrapolate: list[int] | None = None
    """Numbers of training rows whose results are predicted, besides twice the study's. Default:
    four times the study's."""

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= 1 for share in value):
            raise ValueError("shares are above 0 and at most 1")
        if sorted(set(value)) != list(value):
            raise ValueError("shares must ascend, without repetitions")
        return value if value and value[-1] == 1 else (*value, 1.0)

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if len(self.shares) < MIN_SHARES:
            raise ValueError(
                f"a curve is fitted to at least {MIN_SHARES} shares, 1 included; "
                f"here: {len(self.shares)}. Give more"
            )
        return self
