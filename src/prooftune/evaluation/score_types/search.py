"""The hyperparameter search in ``scores.json``; metrics are on validation rows."""

from __future__ import annotations

from typing import Literal, TypedDict

HyperparameterValue = bool | int | float | str | None


class SearchTrial(TypedDict):
    """One trial.

    ``value`` is the metric at the checkpoint that a training selects, of a stopped trial the last
    one measured; None if nothing was measured. ``values`` are the hyperparameters of the space.
    ``from_recipe``: they are the recipe's own.
    """

    number: int
    state: Literal["complete", "stopped", "diverged"]
    value: float | None
    loss: float | None
    seconds: float
    values: dict[str, HyperparameterValue]
    from_recipe: bool


class VariantSearch(TypedDict):
    """The search of one variant. ``chosen``: number of the trial whose values are used; ``rows``:
    validation rows."""

    metric: str
    rows: int
    trials: list[SearchTrial]
    chosen: int


SearchResults = dict[str, VariantSearch]
"""Variant -> its search."""
