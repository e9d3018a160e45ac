"""Costs in a study: measured without changing predictions, reported, and optional in old runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Example, Study
from prooftune.utils.files import read_json, write_json
from prooftune.variants.context import VariantContext
from prooftune.variants.latency import measure_latency
from study.small import details_of, predictions_of, small_recipe

ENDPOINT = {
    "kind": "endpoint",
    "endpoint": {
        "model": "large",
        "base_url": "http://localhost:1/v1",
        "price": {"input": 1, "output": 2, "currency": "EUR"},
    },
}


def recipe(folder: Path, **options: Any) -> dict[str, Any]:
    return small_recipe(Path("unused"), folder, variants=["majority", "tfidf"], **options)


class Clock:
    """Simulated time: every prediction advances it by the next of the given seconds."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds, self.rows = 0.0, list(seconds), list[str]()

    def perf_counter(self) -> float:
        return self.now

    def predict(self, examples: Sequence[Example]) -> None:
        [example] = examples
        self.rows.append(example.id)
        self.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def context(folder: Path, rows: int, with_latency: bool = True) -> VariantContext:
    examples = [Example(str(i), {"text": str(i)}, "a") for i in range(rows)]
    made = Recipe.model_validate(recipe(folder))
    return VariantContext(made, Study([], [], examples, ["a"]), folder, with_latency=with_latency)


def measured(
    monkeypatch: pytest.MonkeyPatch, folder: Path, clock: Clock, rows: int
) -> dict[str, Any]:
    monkeypatch.setattr("prooftune.variants.latency.time", clock)
    return dict(measure_latency(context(folder, rows), clock.predict))


def test_latency_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Two slow rows to warm up, then those that count: 1, 2, …, 20 ms. By linear interpolation the
    # median is 10.5 ms, and the 99th percentile is at rank 0.99 * 19 = 18.81: 19.81 ms.
    clock = Clock(0.5, 0.5, *(0.001 * i for i in range(1, 21)))
    assert measured(monkeypatch, tmp_path, clock, 20) == {
        "latency_p50": pytest.approx(0.0105),
        "latency_p99": pytest.approx(0.01981),
        "latency_rows": 20,
    }
    assert clock.rows == ["0", "1", *map(str, range(20))]


def test_few_rows_have_no_tail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(0.5, 0.5, 0.001, 0.002, 0.003, 0.004)
    assert measured(monkeypatch, tmp_path, clock, 4) == {
        "latency_p50": pytest.approx(0.0025),
        "latency_rows": 4,
    }


def test_latency_takes_few_rows_of_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(0.001)
    assert measured(monkeypatch, tmp_path, clock, 1000)["latency_rows"] == 100
    assert clock.rows[2:5] == ["0", "10", "20"] and clock.rows[-1] == "990"


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [
        # Two rows to warm up; then 2 s end with the tenth row.
        (0.2, 12),
        # One row warms up, and one is timed, however slow they are.
        (30.0, 2),
    ],
)
def test_latency_takes_two_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, calls: int
) -> None:
    clock = Clock(seconds)
    found = measured(monkeypatch, tmp_path, clock, 1000)
    assert len(clock.rows) == pytest.approx(calls, abs=1 if seconds < 1 else 0)
    assert found["latency_p50"] == pytest.approx(seconds)


def test_latency_is_left_out_on_request(tmp_path: Path) -> None:
    clock = Clock(1.0)
    assert measure_latency(context(tmp_path, 5, with_latency=False), clock.predict) == {}
    assert not clock.rows


@pytest.mark.slow
def test_a_study_compares_costs(tmp_path: Path) -> None:
    values = recipe(tmp_path, cost={"machine_per_hour": 3.6, "currency": "CHF"})
    result = prooftune.run(values, tmp_path / "run")
    cost = read_json(tmp_path / "run/variants/tfidf/details.json")["cost"]
    assert 0 < cost["latency_p50"] <= cost["latency_p99"] and cost["latency_rows"] == 60
    costs = read_json(tmp_path / "run/report.json")["scores"]["costs"]
    assert costs["by"] == "price" and costs["pareto"] == ["tfidf"]
    tfidf = costs["variants"]["tfidf"]
    # 3.6 an hour is a thousandth for a second.
    assert tfidf["price_per_1000"] == pytest.approx(cost["score_seconds"] / 60, rel=1e-4)
    assert tfidf["train_price"] == pytest.approx(cost["train_seconds"] / 1000, rel=1e-4)
    page = (tmp_path / "run/report.html").read_text()
    assert 'id="prediction-cost-table"' in page and "CHF" in page
    assert "Cost of predictions" in (tmp_path / "run/report.md").read_text()
    assert result.costs == costs
    # Measured times would make every run's scores differ.
    assert "costs" not in read_json(tmp_path / "run/scores.json")


@pytest.mark.slow
def test_latency_changes_no_prediction(
    monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Language models have prefix caches, shapes of batches and random numbers of training, which
    timed single rows could change; the tuned variant trains after the other two are timed."""
    values = small_recipe(
        model_folders["llama"],
        tmp_path,
        training={"learning_rate": 1e-2, "max_steps": 6, "per_device_train_batch_size": 8},
        lora={"r": 8, "lora_dropout": 0.2},
        variants={"tfidf": None, "zero-shot": None, "few-shot": None, "tuned": None},
    )
    prooftune.run(values, tmp_path / "timed")
    for module in ("classical", "embedding", "encoder", "prompting"):
        monkeypatch.setattr(f"prooftune.variants.{module}.measure_latency", lambda *_: {})
    prooftune.run(values, tmp_path / "untimed")
    for variant in values["variants"]:
        costs = [details_of(tmp_path / run, variant)["cost"] for run in ("timed", "untimed")]
        assert ["latency_p50" in cost for cost in costs] == [True, False], variant
    timed, untimed = predictions_of(tmp_path / "timed"), predictions_of(tmp_path / "untimed")
    assert len(timed) >= 4 and timed == untimed


@pytest.mark.slow
def test_runs_without_latencies_are_scored(tmp_path: Path) -> None:
    values = recipe(tmp_path)
    prooftune.run(values, tmp_path / "run")
    path = tmp_path / "run/variants/tfidf/details.json"
    details = read_json(path)
    # As runs of earlier versions have them.
    details["cost"] = {k: v for k, v in details["cost"].items() if not k.startswith("latency")}
    write_json(path, details)
    costs = prooftune.run(values, tmp_path / "run").costs
    assert costs is not None
    tfidf = costs["variants"]["tfidf"]
    assert tfidf["latency_p50"] is None and tfidf["seconds_per_1000"]


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"machine_per_hour": 0}, "greater than 0"),
        ({"machine_per_hour": 2, "currency": "USD"}, "prices in USD and EUR cannot be compared"),
        ({"currency": "EUR"}, "cost.currency needs cost.machine_per_hour"),
        ({"machine_per_hours": 2}, "machine_per_hour"),
    ],
)
def test_prices_that_cannot_be_used(tmp_path: Path, cost: dict[str, Any], message: str) -> None:
    values = {**recipe(tmp_path), "variants": {"tfidf": None, "large": ENDPOINT}, "cost": cost}
    with pytest.raises(UsageError, match=message):
        prooftune.run(values, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_currency_is_that_of_the_endpoints(tmp_path: Path) -> None:
    values = {**recipe(tmp_path), "cost": {"machine_per_hour": 2}}
    assert Recipe.model_validate(values).cost_currency() == "USD"
    mixed = {**values, "variants": {"tfidf": None, "large": ENDPOINT}}
    assert Recipe.model_validate(mixed).cost_currency() == "EUR"
