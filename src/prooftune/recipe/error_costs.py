"""The recipe section for what errors cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field


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


def _check_right_labels(costs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    right = [label for label, row in costs.items() if row.get(label)]
    if right:
        label = right[0]
        raise ValueError(
            f"'{label}' predicted where '{label}' is true is no error, and right labels cost 0: "
            f"remove '{label}: {costs[label][label]:g}' from the costs of '{label}'"
        )
    return costs


ErrorCosts = Annotated[
    dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]],
    BeforeValidator(_expand_costs),
    AfterValidator(_check_right_labels),
]
"""true label -> predicted label -> cost; 0 where both are the same."""
