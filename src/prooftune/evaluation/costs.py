"""Cost beside quality: what predictions cost by variant, and which variants no other one beats in
both (the Pareto front)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from prooftune.evaluation.score_types import CheaperEquivalent, CostScores, Scores, VariantCost
from prooftune.evaluation.score_types.figures import defined
from prooftune.evaluation.sentences import points
from prooftune.variant_details import VariantDetails

_SECONDS_PER_HOUR = 3600.0
CLEARLY_CHEAPER = 1.5
"""From this ratio of costs on a variant is called cheaper: times vary between runs."""


def cost_scores(
    details: Mapping[str, VariantDetails], scores: Scores, machine_per_hour: float | None
) -> CostScores:
    """Costs of all variants, their Pareto front, and cheaper variants that are as good.

    Args:
        details: what every variant recorded of itself.
        scores: of the study.
        machine_per_hour: price of this machine for an hour; None: costs are compared in seconds.
            A variant behind an endpoint has the price that its requests cost.
    """
    variants = {
        name: _variant_cost(own, scores["n"], machine_per_hour) for name, own in details.items()
    }
    by: Literal["price", "seconds"] = "price" if machine_per_hour is not None else "seconds"
    costs = {name: _compared(cost, by) for name, cost in variants.items()}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    quality = {
        name: defined(scores["variants"][name]["metrics"][scores["primary"]])["value"]
        for name in known
    }
    return {
        "by": by,
        "variants": variants,
        "pareto": pareto_front(known, quality),
        "cheaper": _cheaper(scores, known),
    }


def _variant_cost(details: VariantDetails, n: int, machine_per_hour: float | None) -> VariantCost:
    cost = details.get("cost") or {}
    scoring, training = cost.get("score_seconds"), cost.get("train_seconds")
    per_second = None if machine_per_hour is None else machine_per_hour / _SECONDS_PER_HOUR
    seconds = None if not scoring else 1000 * scoring / n
    endpoint = details.get("endpoint")
    price = None if seconds is None or per_second is None else seconds * per_second
    if endpoint:
        price = endpoint["cost_per_1000"]  # the machine that asks only waits
    return {
        "rows_per_second": None if not scoring else n / scoring,
        "seconds_per_1000": seconds,
        "price_per_1000": price,
        "train_price": None if training is None or per_second is None else training * per_second,
        "latency_p50": endpoint["latency_p50"] if endpoint else cost.get("latency_p50"),
        "latency_p99": endpoint["latency_p99"] if endpoint else cost.get("latency_p99"),
    }


def _compared(cost: VariantCost, by: str) -> float | None:
    return cost["price_per_1000"] if by == "price" else cost["seconds_per_1000"]


def pareto_front(costs: Mapping[str, float], quality: Mapping[str, float]) -> list[str]:
    """Variants than which no other one is both cheaper and better, the cheapest first."""
    front: list[str] = []
    # Of equally cheap variants only the best one can be on the front.
    for name in sorted(costs, key=lambda name: (costs[name], -quality[name])):
        if not front or quality[name] > quality[front[-1]]:
            front.append(name)
    return front


def _cheaper(scores: Scores, costs: Mapping[str, float]) -> list[CheaperEquivalent]:
    """Of every pair of the verdict that is equivalent within the smallest worthwhile difference,
    the one whose predictions are clearly cheaper."""
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    found: list[CheaperEquivalent] = []
    for entry in verdict["against"]:
        other = entry["variant"]
        if entry["worthwhile"] != "equivalent" or judged not in costs or other not in costs:
            continue
        cheap, dear = sorted((judged, other), key=lambda name: costs[name])
        ratio = costs[dear] / costs[cheap] if costs[cheap] > 0 else None
        if ratio is None or ratio >= CLEARLY_CHEAPER:
            found.append({"variant": cheap, "than": dear, "ratio": ratio})
    return found


def cheaper_sentence(cheaper: Sequence[CheaperEquivalent], worthwhile: float | None) -> str:
    """What the verdict says of cheaper variants that are as good; empty for none."""
    if worthwhile is None:
        return ""
    return "".join(
        f" {entry['variant']} is cheaper and as good: within {points(worthwhile)} points of "
        f"{entry['than']}"
        + (f", at 1/{entry['ratio']:.2g} of the cost of a prediction." if entry["ratio"] else ".")
        for entry in cheaper
    )
