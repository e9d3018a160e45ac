"""Cost beside quality: what predictions cost by variant, and which variants no other one beats in
both (the Pareto front)."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.primary import CONTROL
from prooftune.evaluation.score_types import (
    CheaperEquivalent,
    CostScores,
    CostUnit,
    Scores,
    VariantCost,
    Verdict,
    defined,
)
from prooftune.evaluation.sentences import points
from prooftune.variant_details import VariantDetails

_SECONDS_PER_HOUR = 3600.0
CLEARLY_CHEAPER = 1.5
"""From this ratio of costs on a variant is called cheaper: times vary between runs."""


def cost_scores(
    details: Mapping[str, VariantDetails],
    scores: Scores,
    machine_per_hour: float | None,
    currency: str,
) -> CostScores:
    """Costs of all variants, their Pareto front, and cheaper variants that are as good.

    Args:
        details: what every variant recorded of itself; runs of older versions lack latencies.
        scores: of the study.
        machine_per_hour: price of this machine for an hour; None: costs are compared in seconds.
            A variant behind an endpoint has the price of its requests.
        currency: of `machine_per_hour` and of all endpoints.
    """
    variants = {
        name: _variant_cost(own, scores["n"], machine_per_hour, currency)
        for name, own in details.items()
    }
    # Prices compare machines and endpoints; without one, seconds compare variants of this machine.
    by: CostUnit = "seconds" if machine_per_hour is None else "price"
    costs = {
        name: cost
        for name, variant in variants.items()
        if (cost := compared_cost(variant, by)) is not None
    }
    deployable = _deployable(scores, costs)
    return {
        "by": by,
        "variants": variants,
        "compared": list(deployable),
        "pareto": pareto_front(deployable, _quality(scores)),
        "cheaper": cheaper_equivalents(scores, costs),
    }


def compared_cost(variant: VariantCost, by: CostUnit) -> float | None:
    """Price or seconds of 1,000 predictions; None if it cannot be compared."""
    if by == "price":
        return variant["price_per_1000"]
    # The seconds of another machine are no measure of cost on this one.
    return None if variant["endpoint"] else variant["seconds_per_1000"]


def _variant_cost(
    details: VariantDetails, n: int, machine_per_hour: float | None, currency: str
) -> VariantCost:
    cost = details.get("cost") or {}
    training = cost.get("train_seconds")
    # The majority class takes no measurable time.
    scoring = cost.get("score_seconds") or None
    per_second = None if machine_per_hour is None else machine_per_hour / _SECONDS_PER_HOUR
    endpoint = details.get("endpoint")
    if endpoint:
        # A resumed run reads replies from the cache, so its time says nothing of the endpoint; and
        # while the endpoint computes, this machine only waits.
        if endpoint["cached"]:
            scoring = None
        return {
            "endpoint": True,
            "rows_per_second": scoring and n / scoring,
            "seconds_per_1000": scoring and 1000 * scoring / n,
            "price_per_1000": endpoint["cost_per_1000"],
            "train_price": None,
            "currency": endpoint["currency"],
            "latency_p50": endpoint["latency_p50"],
            "latency_p99": endpoint["latency_p99"],
            "latency_rows": endpoint["requests"],
        }
    seconds = scoring and 1000 * scoring / n
    return {
        "endpoint": False,
        "rows_per_second": scoring and n / scoring,
        "seconds_per_1000": seconds,
        "price_per_1000": None if seconds is None or per_second is None else seconds * per_second,
        "train_price": None if training is None or per_second is None else training * per_second,
        "currency": None if per_second is None else currency,
        "latency_p50": cost.get("latency_p50"),
        "latency_p99": cost.get("latency_p99"),
        "latency_rows": cost.get("latency_rows"),
    }


def _deployable(scores: Scores, costs: Mapping[str, float]) -> dict[str, float]:
    """Without controls, which need the reference answers, and without variants that are scored on
    some languages only."""
    return {
        name: cost
        for name, cost in costs.items()
        if scores["variants"][name].get("role") != CONTROL
        and not scores["variants"][name].get("missing_languages")
    }


def _quality(scores: Scores) -> dict[str, float]:
    return {
        name: defined(variant["metrics"][scores["primary"]])["value"]
        for name, variant in scores["variants"].items()
    }


def pareto_front(costs: Mapping[str, float], quality: Mapping[str, float]) -> list[str]:
    """Variants than which no other one is at least as cheap and at least as good, and one of the
    two; the cheapest first.

    Args:
        costs: of the variants that may be on the front.
        quality: of at least these variants; higher is better.
    """
    front: list[str] = []
    # From the cheapest on, every variant on the front is better than the one before it.
    for name in sorted(costs, key=lambda name: (costs[name], -quality[name])):
        # As good for more money is not on the front.
        if not front or quality[name] > quality[front[-1]]:
            front.append(name)
    return front


def cheaper_equivalents(scores: Scores, costs: Mapping[str, float]) -> list[CheaperEquivalent]:
    """Of every pair of the verdict that is equivalent within the smallest worthwhile difference,
    the one whose predictions are clearly cheaper."""
    verdict = scores["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    cheaper: list[CheaperEquivalent] = []
    for entry in verdict["against"]:
        other = entry["variant"]
        if entry["worthwhile"] != "equivalent" or judged not in costs or other not in costs:
            continue
        # Either may be the cheaper one: the verdict says which to prefer.
        cheap, dear = sorted((judged, other), key=lambda name: costs[name])
        ratio = costs[dear] / costs[cheap] if costs[cheap] > 0 else None
        # Two variants that cost nothing are equally cheap.
        if costs[dear] > 0 and (ratio is None or ratio >= CLEARLY_CHEAPER):
            cheaper.append({"variant": cheap, "than": dear, "ratio": ratio})
    return cheaper


def cheaper_sentence(costs: CostScores, worthwhile: float | None) -> str:
    """What the verdict says of cheaper variants that are as good; empty for none."""
    if worthwhile is None:
        return ""
    more = "cost {} times as much" if costs["by"] == "price" else "take {} times as long"
    return "".join(
        f" {entry['variant']} is cheaper and as good (equivalent within {points(worthwhile)} "
        "points): "
        + (
            f"predictions of {entry['than']} {more.format(_ratio(entry['ratio']))}."
            if entry["ratio"]
            else "its predictions cost nothing."
        )
        for entry in costs["cheaper"]
    )


def _ratio(value: float) -> str:
    """Two digits, which times that vary between runs support: 1.6, 12, 340."""
    return f"{value:.1f}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"


def with_costs(scores: Scores, costs: CostScores) -> Scores:
    """The scores as a report shows them: with costs, which the verdict mentions."""
    sentence = scores["verdict"]["sentence"] + cheaper_sentence(costs, scores["worthwhile"])
    verdict: Verdict = {**scores["verdict"], "sentence": sentence}
    reported: Scores = {**scores, "verdict": verdict, "costs": costs}
    return reported
