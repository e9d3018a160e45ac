"""Costs in ``scores.json``."""

from __future__ import annotations

from typing import Literal, TypedDict


class VariantCost(TypedDict):
    """Cost of one variant; None where it is not known. Latencies are seconds of a single row
    (median and 99th percentile); prices are in the recipe's currency, of 1,000 test rows and of the
    training."""

    rows_per_second: float | None
    seconds_per_1000: float | None
    price_per_1000: float | None
    train_price: float | None
    latency_p50: float | None
    latency_p99: float | None


class CheaperEquivalent(TypedDict):
    """A variant that is equivalent to another one within the smallest worthwhile difference, and
    whose predictions cost 1/``ratio`` as much; None: nothing."""

    variant: str
    than: str
    ratio: float | None


class CostScores(TypedDict):
    """Costs of all variants; ``pareto``: those than which no other is both cheaper and better, by
    price or by seconds per 1,000 rows (``by``)."""

    by: Literal["price", "seconds"]
    variants: dict[str, VariantCost]
    pareto: list[str]
    cheaper: list[CheaperEquivalent]
