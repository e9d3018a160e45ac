"""The cost section: the table, the figure and the sentence."""

from __future__ import annotations

from math import log10
from typing import Any

import pytest

from prooftune.evaluation.score_types import defined
from prooftune.report.build import render_page
from prooftune.report.costs_section import (
    cost_rows,
    cost_ticks,
    front_sentence,
    plain,
    plain_tick,
)
from report.conftest import facts_of
from report.reading import read, table
from report.test_values import by_first


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.1, [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]),
        (0.9, 6.0, [1, 2, 5]),
        (1e-6, 1.0, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]),
        # Twelve decades: every second one.
        (1e-6, 1e6, [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6]),
    ],
)
def test_cost_ticks(low: float, high: float, expected: list[float]) -> None:
    assert cost_ticks(log10(low), log10(high)) == pytest.approx(expected)


def test_numbers() -> None:
    assert [plain(v) for v in (0.0, 0.00012345, 0.1, 1.26, 12.6)] == [
        "0",
        "0.00012",
        "0.10",
        "1.3",
        "13",
    ]
    assert [plain_tick(v) for v in (0.002, 0.5, 20, 5000)] == ["0.002", "0.5", "20", "5,000"]


def test_what_an_endpoint_was_sent_over_all_runs() -> None:
    cost = {"score_seconds": 1.0}
    usage: dict[str, Any] = {"sent": 1196, "spent": 0.0691, "currency": "EUR"}
    details: Any = {
        "api": {"cost": cost, "endpoint": usage},
        "free": {"cost": cost, "endpoint": {**usage, "spent": None, "currency": None}},
        "tfidf": {"cost": cost},
    }
    start = "Over all runs, with retries and prompts tried,"
    assert [row["sent"] for row in cost_rows(details, {})] == [
        f"{start} api sent 1,196 requests, which cost 0.069 EUR.",
        f"{start} free sent 1,196 requests.",
        "",
    ]


@pytest.mark.slow
def test_table_and_figure_show_the_scores() -> None:
    scores = facts_of("usual")["scores"]
    costs, page = scores["costs"], read(render_page(facts_of("usual")))
    rows = by_first(table(page, "prediction-cost-table"))
    # The majority class takes no measurable time.
    assert set(rows) == set(costs["variants"]) - {"majority"}
    for name, row in rows.items():
        assert row[-1] == ("yes" if name in costs["pareto"] else "no")
    # 0.084 s for 500 rows, at 0.5 USD an hour.
    assert rows["tfidf"][0] == "5,952" and rows["tfidf"][3] == "0.17 s"
    assert rows["tfidf"][4] == "0.000023 USD"
    titles = [t.text for t in page.by_id("cost").all("title")]
    value = defined(scores["variants"]["tfidf"]["metrics"]["accuracy"])["value"]
    assert f"tfidf: {value:.1%}, 0.000023 USD" in titles and len(titles) == len(rows)


@pytest.mark.slow
def test_sentence_lists_the_front_from_the_cheapest() -> None:
    scores = facts_of("usual")["scores"]
    sentence = front_sentence(scores)
    places = [sentence.index(f"{name} (") for name in scores["costs"]["pareto"]]
    assert places == sorted(places) and len(places) > 1


def test_scores_of_earlier_versions_have_no_comparison_of_costs() -> None:
    facts: Any = {**facts_of("usual")}
    facts["scores"] = {k: v for k, v in facts["scores"].items() if k != "costs"}
    page = read(render_page(facts))
    assert front_sentence(facts["scores"]) == ""
    ids = [e.attributes.get("id") for e in page.all("table")]
    assert "cost-table" in ids and "prediction-cost-table" not in ids
