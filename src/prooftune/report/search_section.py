"""The section with the hyperparameter search: its trials in a figure, and the best in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from prooftune.evaluation.primary import title_of
from prooftune.evaluation.score_types import (
    HyperparameterValue,
    Scores,
    SearchResults,
    SearchTrial,
    VariantSearch,
)
from prooftune.report.cells import Cell, Table
from prooftune.report.format import MISSING, count, duration, percent, significant
from prooftune.report.svg import Plot, dot, element, path, svg_image, ticks

WIDTH, MAX_TICKS = 400, 8
"""As wide as a phone's screen; trials whose labels do not touch there."""
SHOWN_TRIALS = 5
LOSS = "loss"


def search_section(scores: Scores, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Figure, tables and sentences; None where nothing was searched."""
    searches = scores.get("search")
    if not searches:
        return None
    return {
        "figure": search_figure(searches, colours),
        "legend": [(name, colours[name]) for name in searches],
        "tables": search_tables(scores),
        "sentences": [_sentence(name, search) for name, search in searches.items()],
    }


def _sentence(name: str, search: VariantSearch) -> str:
    trials, chosen = search["trials"], search["trials"][search["chosen"]]
    title, rows = title_of(search["metric"]), count(search["rows"])
    early = sum(trial["state"] == "stopped" for trial in trials)
    diverged = sum(trial["state"] == "diverged" for trial in trials)
    seconds = duration(sum(trial["seconds"] for trial in trials))
    start = f"{name}: {count(len(trials))} trials, {early} of them stopped early"
    start += (f", {diverged} diverged" if diverged else "") + f", in {seconds}. "
    own = next((t["value"] for t in trials if t["from_recipe"]), None)
    if chosen["from_recipe"]:
        return f"{start}No trial was better than the recipe's own values."
    compared = "" if own is None else f", the recipe's own values {_figure(own, search)}"
    return (
        f"{start}The chosen values reach {title} {_figure(chosen['value'], search)} on {rows} "
        f"validation rows{compared}."
    )


def _figure(value: float | None, search: VariantSearch) -> str:
    if value is None:
        return MISSING
    return significant(value) if search["metric"] == LOSS else percent(value)


def search_tables(scores: Scores) -> list[Table]:
    """For every searched variant the best trials and the recipe's own; empty without a search."""
    searches = scores.get("search")
    return [_table(name, search) for name, search in searches.items()] if searches else []


def _table(name: str, search: VariantSearch) -> Table:
    keys = list(search["trials"][0]["values"])
    title = title_of(search["metric"])
    shown = ranked(search)[:SHOWN_TRIALS]
    # The recipe's own trial is shown wherever it is.
    shown += [t for t in search["trials"] if t["from_recipe"] and t not in shown]
    rows = []
    for trial in shown:
        label = f"{trial['number'] + 1}"
        label += " (chosen)" if trial["number"] == search["chosen"] else ""
        label += " (recipe)" if trial["from_recipe"] else ""
        cells = [Cell(_value(trial["values"][key]), is_text=True) for key in keys]
        cells += [Cell(_figure(trial["value"], search))]
        if search["metric"] != LOSS:
            cells += [Cell(MISSING if trial["loss"] is None else significant(trial["loss"]))]
        rows.append((label, [*cells, Cell(duration(trial["seconds"]))]))
    headings = ["trial", *keys, title, *([] if search["metric"] == LOSS else [LOSS]), "time"]
    return Table(
        f"search-{name}",
        f"Search: {name}",
        f"{name}: the best of {count(len(search['trials']))} trials on {count(search['rows'])} "
        "validation rows. The chosen figure is the best of many, and so too high for new rows; "
        "test rows had no part in it.",
        headings,
        rows,
    )


def ranked(search: VariantSearch) -> list[SearchTrial]:
    """The trials that were not stopped, the best first, of equally good ones that with the lowest
    loss."""
    sign = 1 if search["metric"] == LOSS else -1
    complete = [t for t in search["trials"] if t["state"] == "complete" and t["value"] is not None]
    return sorted(complete, key=lambda t: (sign * (t["value"] or 0.0), t["loss"] or 0.0))


def _value(value: HyperparameterValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else MISSING if value is None else str(value)


def search_figure(searches: SearchResults, colours: Mapping[str, str]) -> Markup:
    """The metric by trial: dots, hollow where a trial was stopped, and a line for the best so
    far."""
    measured = [t for s in searches.values() for t in s["trials"] if t["value"] is not None]
    values = [t["value"] for t in measured if t["value"] is not None]
    some = next(iter(searches.values()))
    last = max(len(search["trials"]) for search in searches.values())
    marks = ticks(min(values), max(values), 5)
    plot = Plot(WIDTH, 280, (0.5, last + 0.5), (marks[0], marks[-1]), left=52, right=16)
    digits = 0 if marks[-1] - marks[0] >= 0.05 else 1
    step = -(-last // MAX_TICKS)
    parts = [
        plot.axes(
            [(n, count(n)) for n in range(1, last + 1, step)],
            [(v, significant(v) if some["metric"] == LOSS else percent(v, digits)) for v in marks],
            "trial",
            f"{title_of(some['metric'])} on validation rows",
        )
    ]
    for name, search in searches.items():
        parts.append(
            element(
                "g",
                element("title", f"{name}: best so far"),
                path(
                    [(plot.x(n), plot.y(v)) for n, v in _best_so_far(search)],
                    f"line {colours[name]}",
                ),
            )
        )
        for trial in search["trials"]:
            if trial["value"] is not None:
                style = "dot" if trial["state"] == "complete" else "dot hollow"
                title = (
                    f"{name}, trial {trial['number'] + 1}: {_figure(trial['value'], search)}, "
                    + ", ".join(f"{k} {_value(v)}" for k, v in trial["values"].items())
                )
                x, y = plot.x(trial["number"] + 1), plot.y(trial["value"])
                parts.append(dot(x, y, 4, f"{style} {colours[name]}", title))
    return svg_image(plot.width, plot.height, "Validation metric by trial of the search", *parts)


def _best_so_far(search: VariantSearch) -> list[tuple[float, float]]:
    """Points (trial, best metric of the trials up to it that were not stopped)."""
    better = min if search["metric"] == LOSS else max
    points: list[tuple[float, float]] = []
    for trial in search["trials"]:
        if trial["state"] == "complete" and trial["value"] is not None:
            best = better([trial["value"], *(v for _, v in points[-1:])])
            points.append((trial["number"] + 1, best))
    # To the last trial, also where it was stopped.
    return [*points, (float(len(search["trials"])), points[-1][1])]
