"""Costs, the Pareto front and cheaper equivalents, by hand."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.test_judging import FAST, of_counts
from prooftune.evaluation.costs import cheaper_sentence, cost_scores, pareto_front
from prooftune.evaluation.score_types import Scores
from prooftune.evaluation.scores import score
from prooftune.variant_details import EndpointUsage, VariantDetails

N = 200
ENDPOINT: EndpointUsage = {
    "model": "large",
    "requests": N,
    "cached": 0,
    "without_usage": 0,
    "sent": N,
    "prompt_tokens": 20_000,
    "completion_tokens": 1_000,
    "cost": 0.08,
    "spent": 0.1,
    "cost_per_1000": 0.4,
    "currency": "USD",
    "latency_p50": 0.5,
    "latency_p99": 2.0,
    "logprobs": False,
    "failed": {},
}
DETAILS: dict[str, VariantDetails] = {
    "tuned": {
        "cost": {
            "train_seconds": 1800.0,
            "score_seconds": 40.0,
            "latency_p50": 0.25,
            "latency_p99": 0.5,
            "latency_rows": 8,
        }
    },
    # A run of an earlier version: without latencies.
    "tfidf": {"cost": {"train_seconds": 0.9, "score_seconds": 0.1}},
    "majority": {"cost": {"train_seconds": 0.0, "score_seconds": 0.0}},
    "large": {"cost": {"train_seconds": 0.0, "score_seconds": 25.0}, "endpoint": ENDPOINT},
}
QUALITY = {"tuned": 0.90, "tfidf": 0.89, "majority": 0.5, "large": 0.93}


def scores(
    worthwhile: dict[str, str] | None = None, variants: dict[str, Any] | None = None
) -> Scores:
    """Scores in which `tuned` is judged; `worthwhile`: how it relates to others."""
    measured = {
        name: {"metrics": {"accuracy": {"value": value, "low": value - 0.02, "high": value + 0.02}}}
        for name, value in QUALITY.items()
    }
    for name, more in (variants or {}).items():
        measured[name].update(more)
    against = [{"variant": n, "worthwhile": w} for n, w in (worthwhile or {}).items()]
    return cast(
        "Scores",
        {
            "n": N,
            "primary": "accuracy",
            "worthwhile": 0.02,
            "variants": measured,
            "verdict": {"best_tuned": "tuned", "winner": "large", "against": against},
        },
    )


def test_costs_by_hand() -> None:
    # 40 s for 200 rows are 200 s for 1,000, at 1.8 an hour 0.1; half an hour of training is 0.9.
    costs = cost_scores(DETAILS, scores(), 1.8, "USD")
    assert costs["by"] == "price"
    assert costs["variants"]["tuned"] == {
        "endpoint": False,
        "rows_per_second": 5.0,
        "seconds_per_1000": 200.0,
        "price_per_1000": pytest.approx(0.1),
        "train_price": pytest.approx(0.9),
        "currency": "USD",
        "latency_p50": 0.25,
        "latency_p99": 0.5,
        "latency_rows": 8,
    }
    tfidf = costs["variants"]["tfidf"]
    assert tfidf["price_per_1000"] == pytest.approx(0.5 * 1.8 / 3600)
    assert tfidf["latency_p50"] is None and tfidf["latency_rows"] is None
    # The price of the requests, and not of the 25 s for which this machine waited.
    large = costs["variants"]["large"]
    assert large["price_per_1000"] == 0.4 and large["train_price"] is None
    assert (large["rows_per_second"], large["latency_p99"]) == (8.0, 2.0)
    assert costs["variants"]["majority"]["price_per_1000"] is None
    assert costs["pareto"] == ["tfidf", "tuned", "large"]


def test_without_a_price_seconds_of_this_machine_are_compared() -> None:
    costs = cost_scores(DETAILS, scores(), None, "USD")
    assert costs["by"] == "seconds" and costs["pareto"] == ["tfidf", "tuned"]
    assert costs["variants"]["tuned"]["price_per_1000"] is None
    # An endpoint keeps its price, which needs none of the machine.
    assert costs["variants"]["large"]["price_per_1000"] == 0.4


def test_cached_replies_say_nothing_of_an_endpoints_speed() -> None:
    resumed: VariantDetails = {**DETAILS["large"], "endpoint": {**ENDPOINT, "cached": 150}}
    large = cost_scores({"large": resumed}, scores(), 1.8, "USD")["variants"]["large"]
    assert large["rows_per_second"] is None and large["seconds_per_1000"] is None
    assert large["price_per_1000"] == 0.4 and large["latency_p50"] == 0.5


def test_details_without_costs() -> None:
    costs = cost_scores({"tuned": {}}, scores({"tfidf": "equivalent"}), 1.8, "USD")
    assert costs["pareto"] == [] and costs["cheaper"] == []
    assert costs["variants"]["tuned"]["price_per_1000"] is None


@pytest.mark.parametrize("more", [{"role": "control"}, {"missing_languages": ["sw"]}])
def test_systems_that_are_no_alternative_are_not_on_the_front(more: dict[str, Any]) -> None:
    costs = cost_scores(DETAILS, scores(variants={"tfidf": more}), None, "USD")
    assert costs["pareto"] == ["tuned"]


def test_pareto_front_by_hand() -> None:
    costs = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0, "e": 5.0, "f": 0.5}
    quality = {"a": 0.7, "b": 0.8, "c": 0.75, "d": 0.8, "e": 0.9, "f": 0.6}
    # c costs as much as b and is worse; d is as good as b and dearer.
    assert pareto_front(costs, quality) == ["f", "a", "b", "e"]
    assert pareto_front({}, {}) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_pareto_front_is_what_nothing_dominates(found: list[tuple[int, int]]) -> None:
    names = [str(i) for i in range(len(found))]
    costs = {n: float(c) for n, (c, _) in zip(names, found, strict=True)}
    quality = {n: float(q) for n, (_, q) in zip(names, found, strict=True)}
    undominated = {
        (costs[a], quality[a])
        for a in names
        if not any(
            costs[b] <= costs[a]
            and quality[b] >= quality[a]
            and (costs[b], quality[b]) != (costs[a], quality[a])
            for b in names
        )
    }
    front = pareto_front(costs, quality)
    # Of variants that are equal in both, one is listed.
    assert [(costs[n], quality[n]) for n in front] == sorted(undominated)


def test_cheaper_and_as_good() -> None:
    found = scores({"tfidf": "equivalent", "large": "undecided"})
    costs = cost_scores(DETAILS, found, None, "USD")
    # 40 s against 0.1 s.
    assert costs["cheaper"] == [
        {"variant": "tfidf", "than": "tuned", "ratio": pytest.approx(400)},
    ]
    assert cheaper_sentence(costs, 0.02) == (
        " tfidf is cheaper and as good (equivalent within 2.0 points): predictions of tuned take "
        "400 times as long."
    )
    assert cheaper_sentence(costs, None) == ""


def test_the_judged_variant_can_be_the_cheaper_one() -> None:
    costs = cost_scores(DETAILS, scores({"large": "equivalent"}), 1.8, "USD")
    assert cheaper_sentence(costs, 0.02) == (
        " tuned is cheaper and as good (equivalent within 2.0 points): predictions of large cost "
        "4.0 times as much."
    )


@pytest.mark.parametrize("relation", ["better", "worse", "undecided"])
def test_what_is_not_equivalent_is_not_as_good(relation: str) -> None:
    assert cost_scores(DETAILS, scores({"tfidf": relation}), 1.8, "USD")["cheaper"] == []


def test_nearly_the_same_cost_is_not_cheaper() -> None:
    close: VariantDetails = {"cost": {"train_seconds": 0.0, "score_seconds": 28.0}}
    details = {**DETAILS, "tfidf": close}
    # 40 / 28 is below 1.5, which times may differ by from run to run.
    assert cost_scores(details, scores({"tfidf": "equivalent"}), None, "USD")["cheaper"] == []


def test_free_predictions() -> None:
    free: VariantDetails = {**DETAILS["large"], "endpoint": {**ENDPOINT, "cost_per_1000": 0.0}}
    costs = cost_scores({**DETAILS, "large": free}, scores({"large": "equivalent"}), 1.8, "USD")
    assert costs["cheaper"] == [{"variant": "large", "than": "tuned", "ratio": None}]
    assert cheaper_sentence(costs, 0.02).endswith("its predictions cost nothing.")
    assert costs["pareto"] == ["large"]


@pytest.mark.parametrize(("worthwhile", "equivalent"), [(1.0, True), (0.5, False)])
def test_equivalence_by_hand(worthwhile: float, equivalent: bool) -> None:
    # 22 - 20 of 2,000 rows: a difference of 0.1 points with a standard error of
    # sqrt(42 - 4 / 2000) / 2000 = 0.324 points; two one-sided tests at 5% are the 90% interval
    # 0.1 +- 1.645 * 0.324: from -0.43 to 0.63 points, inside +-1 and not inside +-0.5.
    chosen = FAST.model_copy(update={"worthwhile": worthwhile, "resamples": 100})
    found = score(*of_counts(2000, 20, 22), chosen, 0)
    details: dict[str, VariantDetails] = {
        "lora": {"cost": {"train_seconds": 60.0, "score_seconds": 20.0}},
        "zero": {"cost": {"train_seconds": 0.0, "score_seconds": 60.0}},
    }
    costs = cost_scores(details, found, None, "USD")
    assert costs["cheaper"] == (
        [{"variant": "lora", "than": "zero", "ratio": pytest.approx(3)}] if equivalent else []
    )
    assert costs["pareto"] == ["lora"]
