"""The recipe section for prices."""

from __future__ import annotations

from pydantic import Field

from prooftune.recipe.base import Section

DEFAULT_CURRENCY = "USD"


class CostSettings(Section):
    """Prices, by which the report compares the cost of variants."""

    machine_per_hour: float | None = Field(default=None, gt=0)
    """Price of this machine for an hour. Trainings and predictions that are computed here are then
    priced; endpoints have prices of their own (``endpoint.price``). Default: costs are compared in
    seconds."""
    currency: str | None = None
    """Currency of the price; endpoints must have the same. Default: theirs, else ``USD``."""
