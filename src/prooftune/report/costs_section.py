"""Cost beside quality: the table of costs, and quality by cost with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Any

from markupsafe import Markup

from prooftune.evaluation.costs import compared_cost
from prooftune.evaluation.score_types import CostScores, Scores, VariantCost, defined
from prooftune.report.cells import Cell, Table
from prooftune.report.format import MISSING, duration, format_value, milliseconds, significant
from prooftune.report.svg import Plot, dot, line, path, svg_image, ticks
from prooftune.report.task_display import display_for
from prooftune.report.types import ReportedVariant

WIDTH, HEIGHT = 400, 300
MAX_DECADES, MAX_TICKS = 2, 6
"""Up to this many powers of ten the cost axis has marks at 1, 2 and 5; from the second number on
not every one of them has a mark."""


def costs_section(scores: Scores, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Figure, table and the sentence on the Pareto front; None where costs were not compared."""
    costs = scores.get("costs")
    table = costs_table(scores)
    if not costs or table is None:
        return None
    marks = _marks(scores, costs)
    return {
        "table": table,
        # A single variant has nothing to be compared with.
        "figure": quality_cost_figure(marks, scores, costs, colours) if len(marks) > 1 else None,
        "legend": [(mark.name, colours[mark.name], not mark.on_front) for mark in marks],
        "sentence": front_sentence(scores),
    }


def front_sentence(scores: Scores) -> str:
    """The Pareto front in words; empty where costs were not compared."""
    costs = scores.get("costs")
    if not costs or not costs["pareto"]:
        return ""
    names = [
        f"{name} ({_amount(compared_cost(costs['variants'][name], costs['by']), costs, name)})"
        for name in costs["pareto"]
    ]
    unit = "price" if costs["by"] == "price" else "time"
    return (
        f"Cheapest at each quality, by {unit} of 1,000 predictions (Pareto front): "
        f"{', '.join(names)}. For every other variant that was compared, one of these is at least "
        "as good and at least as cheap."
    )


def costs_table(scores: Scores) -> Table | None:
    """Speed, latency and prices by variant; None if no variant has any."""
    costs = scores.get("costs")
    if not costs:
        return None
    priced = any(v["price_per_1000"] is not None for v in costs["variants"].values())
    trained = any(v["train_price"] is not None for v in costs["variants"].values())
    rows = [
        (name, _cost_cells(variant, _on_front(name, costs), priced, trained))
        for name, variant in costs["variants"].items()
        if variant["seconds_per_1000"] is not None or variant["price_per_1000"] is not None
    ]
    headings = ["variant", "rows per second", "latency, median", "latency, 99%", "1,000 rows"]
    headings += ["price of 1,000 rows"] * priced + ["price of training"] * trained
    return (
        Table(
            "prediction-cost-table",
            "Cost of predictions",
            "Rows per second and 1,000 rows: the test rows in batches. Latency: one row at a time, "
            "median and 99th percentile of the rows given below it; at an endpoint, of its "
            "concurrent requests. Retrieval is not included. Pareto front: no other variant is as "
            "cheap and as good; a dash: not compared (a control, or a cost in another unit).",
            [*headings, "Pareto front"],
            rows,
        )
        if rows
        else None
    )


def cost_rows(
    details: Mapping[str, ReportedVariant], estimates: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Time, tokens and memory of each variant; None where not recorded."""
    names = (
        "train_seconds",
        "score_seconds",
        "train_tokens",
        "score_tokens",
        "generated_tokens",
        "peak_memory_bytes",
    )
    return [
        {
            "name": name,
            # Not every kind of variant records every cost.
            **{key: v["cost"].get(key) for key in names},
            "estimate": estimates.get(name),
            "sent": _sent(name, v),
        }
        for name, v in details.items()
        if v.get("cost")
    ]


def _sent(name: str, variant: ReportedVariant) -> str:
    """What a variant behind an endpoint sent and cost over all runs; empty for others."""
    endpoint = variant.get("endpoint")
    if not endpoint:
        return ""
    spent = endpoint["spent"]
    cost = "" if spent is None else f", which cost {price(spent, endpoint['currency'])}"
    return (
        f"Over all runs, with retries and prompts tried, {name} sent {endpoint['sent']:,} requests"
        f"{cost}."
    )


def _on_front(name: str, costs: CostScores) -> str:
    if name not in costs["compared"]:
        return MISSING
    return "yes" if name in costs["pareto"] else "no"


def _cost_cells(variant: VariantCost, on_front: str, priced: bool, trained: bool) -> list[Cell]:
    speed, timed = variant["rows_per_second"], variant["latency_rows"]
    cells = [
        Cell(_rate(speed)),
        Cell(
            milliseconds(variant["latency_p50"]),
            f"{timed:,} rows" if timed and variant["latency_p50"] is not None else "",
        ),
        Cell(milliseconds(variant["latency_p99"])),
        Cell(duration(variant["seconds_per_1000"])),
    ]
    currency = variant["currency"]
    if priced:
        cells.append(Cell(price(variant["price_per_1000"], currency)))
    if trained:
        cells.append(Cell(price(variant["train_price"], currency)))
    return [*cells, Cell(on_front)]


def _rate(value: float | None) -> str:
    """Rows per second: 12,345, 42, 0.31."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 10 else significant(value, 2)


def price(value: float | None, currency: str | None) -> str:
    """A price to two digits: ``0.0012 USD``, ``340 USD``."""
    if value is None:
        return MISSING
    shown = f"{value:,.0f}" if value >= 100 else plain(value)
    return f"{shown} {currency}" if currency else shown


def plain(value: float) -> str:
    """Two significant digits, without an exponent down to a millionth: 0.00012."""
    if value == 0 or value < 1e-6:
        return significant(value, 2)
    return f"{value:.{max(0, 1 - floor(log10(value)))}f}"


def _amount(cost: float | None, costs: CostScores, name: str) -> str:
    if costs["by"] == "seconds":
        return duration(cost)
    return price(cost, costs["variants"][name]["currency"])


@dataclass(frozen=True, slots=True)
class _Mark:
    """One variant in the figure."""

    name: str
    cost: float
    value: float
    low: float
    high: float
    on_front: bool


def _marks(scores: Scores, costs: CostScores) -> list[_Mark]:
    marks = []
    for name, variant in costs["variants"].items():
        cost = compared_cost(variant, costs["by"])
        # Free predictions have no place on a logarithmic axis; table and sentence have them.
        if not cost:
            continue
        figure = defined(scores["variants"][name]["metrics"][scores["primary"]])
        marks.append(
            _Mark(
                name, cost, figure["value"], figure["low"], figure["high"], name in costs["pareto"]
            )
        )
    return sorted(marks, key=lambda mark: mark.cost)


def quality_cost_figure(
    marks: Sequence[_Mark], scores: Scores, costs: CostScores, colours: Mapping[str, str]
) -> Markup:
    """The primary metric with its interval by the cost of 1,000 predictions on a logarithmic axis;
    the Pareto front is a step line through its filled dots."""
    ends = [end for m in marks for end in (m.low, m.high)]
    y_ticks = ticks(min(ends), max(ends), 5)
    first, last = log10(marks[0].cost), log10(marks[-1].cost)
    margin = max(0.08 * (last - first), 0.08)
    scale = first - margin, last + margin
    plot = Plot(WIDTH, HEIGHT, scale, (y_ticks[0], y_ticks[-1]), left=52, right=16)
    form = display_for(scores).metrics[scores["primary"]].form
    step = form.scale * (y_ticks[1] - y_ticks[0])
    digits = 0 if step >= 1 else 1 if step >= 0.1 else 2
    currency = next((v["currency"] for v in costs["variants"].values() if v["currency"]), "")
    unit = f"price of 1,000 predictions, {currency}"
    title = str(scores["primary_title"])
    parts = [
        plot.axes(
            [(log10(cost), _cost_tick(cost, costs)) for cost in cost_ticks(*scale)],
            [(v, format_value(v, replace(form, digits=digits))) for v in y_ticks],
            unit if costs["by"] == "price" else "time of 1,000 predictions",
            title,
        )
    ]
    front = [m for m in marks if m.on_front]
    if front:
        steps = [(plot.x(log10(front[0].cost)), plot.y(front[0].value))]
        for mark in front[1:]:
            x = plot.x(log10(mark.cost))
            # Until the next better variant is paid for, the quality stays that of the last one.
            steps += [(x, steps[-1][1]), (x, plot.y(mark.value))]
        steps.append((plot.width - plot.right, steps[-1][1]))
        parts.append(path(steps, "front"))
    for mark in marks:
        x, class_ = plot.x(log10(mark.cost)), colours[mark.name]
        parts.append(line(x, plot.y(mark.low), x, plot.y(mark.high), f"error {class_}"))
        hollow = "" if mark.on_front else " hollow"
        amount = _amount(mark.cost, costs, mark.name)
        label = f"{mark.name}: {format_value(mark.value, form)}, {amount}"
        parts.append(dot(x, plot.y(mark.value), 5, f"dot {class_}{hollow}", label))
    return svg_image(plot.width, plot.height, f"{title} by cost of 1,000 predictions", *parts)


def cost_ticks(low: float, high: float) -> list[float]:
    """Round costs between two powers of ten: of each decade 1, 2 and 5, or 1 alone where there are
    many; every second or third decade where there are very many."""
    # The tolerance is for ends that are round but for the last bits.
    low, high = low - 1e-9, high + 1e-9
    every = ceil((high - low) / MAX_TICKS - 1e-6)
    steps = (1, 2, 5) if high - low <= MAX_DECADES + 1e-6 else (1,)
    decades = [d for d in range(floor(low), ceil(high) + 1) if d % every == 0]
    return [cost for d in decades for s in steps if low <= log10(cost := s * 10.0**d) <= high]


def _cost_tick(cost: float, costs: CostScores) -> str:
    if costs["by"] == "price":
        return significant(cost, 1) if cost < 1e-4 else plain_tick(cost)
    if cost < 1:
        return milliseconds(cost)
    return f"{cost:.0f} s" if cost < 1000 else f"{cost:,.0f} s"


def plain_tick(cost: float) -> str:
    """A round number without superfluous zeros: 0.002, 20."""
    return f"{cost:,.0f}" if cost >= 1 else f"{cost:.{-floor(log10(cost) + 1e-9)}f}"
