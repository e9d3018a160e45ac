"""The recipe section for what errors cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field


def _expand_costs(value: object) -> object:
    """Labels as text, as everywhere in a recipe: ``{1: {0: 5}}`` names the labels '1' and '0'."""
    if not isinstance(value, Mapping) or not all(
        isinstance(row, Mapping) for row in value.values()
    ):
        raise ValueError(
            "expected {true label: {predicted label: cost}}, such as {spam: {ham: 1}, ham: {spam: "
            "10}}"
        )
    return {
        str(true): {str(predicted): cost for predicted, cost in row.items()}
        for true, row in value.items()
    }


ErrorCosts = Annotated[
    dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]],
    BeforeValidator(_expand_costs),
]
"""true label -> predicted label -> cost."""
