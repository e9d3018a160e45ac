"""Costs in ``report.json``."""

from __future__ import annotations

from typing import Literal, TypedDict

CostUnit = Literal["price", "seconds"]
"""What variants are compared in: the price, or the seconds, of 1,000 predictions."""


class VariantCost(TypedDict):
    """Cost of one variant; None where it is not known. ``endpoint``: it computes elsewhere.

    ``rows_per_second``, ``seconds_per_1000`` and ``price_per_1000`` are of the test rows in
    batches; ``train_price`` is of all trainings; prices are in ``currency``. Latencies are seconds
    of a single row: median and 99th percentile of ``latency_rows`` rows.
    """

    endpoint: bool
    rows_per_second: float | None
    seconds_per_1000: float | None
    price_per_1000: float | None
    train_price: float | None
    currency: str | None
    latency_p50: float | None
    latency_p99: float | None
    latency_rows: int | None


class CheaperEquivalent(TypedDict):
    """A variant that is equivalent to another one within the smallest worthwhile difference, and
    whose predictions cost 1/``ratio`` as much; None: nothing."""

    variant: str
    than: str
    ratio: float | None


class CostScores(TypedDict):
    """Costs of all variants; ``pareto``: those than which no other is both cheaper and better, by
    price or by seconds of 1,000 predictions (``by``), the cheapest first; ``compared``: the
    variants that could be deployed and whose cost is known in that unit."""

    by: CostUnit
    variants: dict[str, VariantCost]
    compared: list[str]
    pareto: list[str]
    cheaper: list[CheaperEquivalent]
