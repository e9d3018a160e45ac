"""The section with learning curves: what more labels would bring."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Any

from markupsafe import Markup

from prooftune.evaluation.score_types import LearningCurves, Scores, VariantCurve
from prooftune.report.cells import Cell, Table, bounded_cell
from prooftune.report.format import count, percent, points, signed_interval
from prooftune.report.svg import Plot, dot, element, line, path, short_number, svg_image, ticks
from prooftune.report.svg import text as svg_text

WIDTH, MAX_TICKS = 400, 6
"""As wide as a phone's screen; sizes whose labels do not touch there."""


def learning_curve_section(scores: Scores, colours: Mapping[str, str]) -> dict[str, Any] | None:
    """Figure, tables and sentences; None where the recipe asks for no curve."""
    curves = scores.get("learning_curve")
    if not curves:
        return None
    return {
        "figure": learning_curve_figure(curves, colours),
        "legend": [(name, colours[name]) for name in curves["variants"]],
        "tables": learning_curve_tables(scores),
        "sentences": [_sentence(name, c, curves) for name, c in curves["variants"].items()],
    }


def _sentence(name: str, curve: VariantCurve, curves: LearningCurves) -> str:
    """What twice the labels would add."""
    gain = curve["extrapolated"][0]["gain"]
    low, high = 100 * gain["low"], 100 * gain["high"]
    return (
        f"{name}: twice the labels ({count(2 * curves['rows'])}) would add "
        f"{100 * gain['value']:.1f} points of {curves['metric']} ({low:.1f} to {high:.1f})."
    )


def learning_curve_tables(scores: Scores) -> list[Table]:
    """Measured points, and the extrapolation; empty where there is no curve."""
    curves = scores.get("learning_curve")
    if not curves:
        return []
    some = next(iter(curves["variants"].values()))
    level = percent(scores["confidence"], 0)
    measured = Table(
        "learning-curve-table",
        "Learning curves",
        f"{_capital(curves['metric'])} on the test rows by number of training rows, {level} "
        "intervals over test rows; means over the subsets of a size.",
        ["variant", *(f"{count(point['rows'])} rows" for point in some["points"])],
        [
            (name, [bounded_cell(point["value"], point) for point in curve["points"]])
            for name, curve in curves["variants"].items()
        ],
    )
    headings = ["variant"]
    for entry in some["extrapolated"]:
        headings += [f"{count(entry['rows'])} rows", "gain, points"]
    rows = []
    for name, curve in curves["variants"].items():
        cells: list[Cell] = []
        for entry in curve["extrapolated"]:
            cells += [
                bounded_cell(entry["value"], entry),
                Cell(points(entry["gain"]["value"]), signed_interval(entry["gain"])),
            ]
        weight = percent(curve["weights"]["power"], 0)
        rows.append((name, [*cells, Cell(weight), Cell(f"{100 * curve['subset_sd']:.1f}")]))
    extrapolated = Table(
        "extrapolation-table",
        "Extrapolation of the learning curves",
        f"Expected {curves['metric']} with more training rows, with the {level} interval of one "
        f"more training; gain: over the fitted value, not the measured one, at "
        f"{count(curves['rows'])} rows. Power law: weight of the power law against a logarithmic "
        "curve. Spread: standard deviation between training subsets of "
        "one size, in points.",
        [*headings, "power law", "spread"],
        rows,
    )
    return [measured, extrapolated]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def learning_curve_figure(curves: LearningCurves, colours: Mapping[str, str]) -> Markup:
    """The metric by number of training rows on a logarithmic axis: measured points with intervals,
    the fitted curve, and beyond the study's rows its band."""
    variants = curves["variants"]
    first = next(iter(variants.values()))
    sizes = [p["rows"] for p in first["points"]] + [e["rows"] for e in first["extrapolated"]]
    values = [v for c in variants.values() for p in c["points"] for v in (p["low"], p["high"])]
    values += [
        min(1.0, v)
        for c in variants.values()
        for e in c["extrapolated"]
        for v in (e["low"], e["high"])
    ]
    marks = ticks(min(values), max(values), 5)
    plot = Plot(
        WIDTH,
        300,
        (log2(sizes[0]) - 0.15, log2(sizes[-1]) + 0.15),
        (marks[0], marks[-1]),
        left=52,
        right=16,
    )
    digits = 0 if marks[1] - marks[0] >= 0.01 else 1
    parts: list[Markup] = [
        plot.axes(
            [(log2(n), count(n)) for n in sizes[-MAX_TICKS:]],
            [(v, percent(v, digits)) for v in marks],
            "training rows",
            curves["metric"],
        )
    ]
    whole = plot.x(log2(curves["rows"]))
    parts += [
        line(whole, plot.top, whole, plot.height - plot.bottom, "ideal"),
        # Curves rise, so that the corner below is free.
        svg_text(whole + 5, plot.height - plot.bottom - 6, "extrapolated", class_="tick over"),
    ]
    for name, curve in variants.items():
        parts.append(_band(plot, curve, curves["rows"], colours[name]))
    for name, curve in variants.items():
        fitted = [(plot.x(log2(p["rows"])), plot.y(p["value"])) for p in curve["line"]]
        parts.append(element("g", element("title", name), path(fitted, f"line {colours[name]}")))
        for p in curve["points"]:
            x = plot.x(log2(p["rows"]))
            error = line(x, plot.y(p["low"]), x, plot.y(p["high"]), f"error {colours[name]}")
            title = f"{name}, {count(p['rows'])} rows: {percent(p['value'])}"
            parts += [error, dot(x, plot.y(p["value"]), 4, f"dot {colours[name]}", title)]
    return svg_image(
        plot.width, plot.height, f"{curves['metric']} by number of training rows", *parts
    )


def _band(plot: Plot, curve: VariantCurve, start: int, class_: str) -> Markup:
    """Interval of the curve beyond the measured rows, as an area."""
    beyond = [p for p in curve["line"] if p["rows"] >= start]
    corners = [(p["rows"], p["low"]) for p in beyond]
    corners += [(p["rows"], p["high"]) for p in reversed(beyond)]
    steps = " ".join(
        f"{short_number(float(plot.x(log2(n))))},{short_number(float(plot.y(v)))}"
        for n, v in corners
    )
    return element("polygon", points=steps, class_=f"area {class_}")
