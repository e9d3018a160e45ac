"""The figures of the report: each takes plain figures and returns an inline SVG.

They are drawn about as wide as a phone's screen, so that their texts stay readable there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from markupsafe import Markup

from prooftune.report.format import count, percent, points, significant
from prooftune.report.svg import Plot, Range, dot, element, line, path, svg_image, text, ticks

Row = Mapping[str, Any]
PERCENT_TICKS = [(v, percent(v, 0)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
WIDTH = 400
CELL_WIDTH = 150
CELL_MARGIN = 13
LONGEST_LINE = 20


def whisker(figure: Row, scale: Range, class_: str, label: str, zero: bool = False) -> Markup:
    """A value with its interval as a band on a thin track, for a table cell.

    Args:
        figure: ``value``, ``low``, ``high``.
        scale: values at the left and right end, the same for all rows.
        class_: of the series' colour.
        label: what it shows, in words.
        zero: draw a line at 0.
    """
    width, height = CELL_WIDTH, 26
    plot = Plot(width, height, scale, (0, 1), left=CELL_MARGIN, right=CELL_MARGIN, top=0, bottom=0)
    middle = height / 2
    parts = [line(CELL_MARGIN, middle, width - CELL_MARGIN, middle, "track")]
    parts += [
        line(plot.x(v), middle - 3, plot.x(v), middle + 3, "track") for v in _inner_ticks(scale)
    ]
    if zero:
        parts.append(line(plot.x(0), 0, plot.x(0), height, "axis"))
    if figure.get("low") is not None:
        parts.append(
            line(plot.x(figure["low"]), middle, plot.x(figure["high"]), middle, f"band {class_}")
        )
    parts.append(
        line(
            plot.x(figure["value"]),
            middle - 7,
            plot.x(figure["value"]),
            middle + 7,
            f"mark {class_}",
        )
    )
    return svg_image(width, height, label, *parts, class_="cell")


def whisker_axis(scale: Range, in_points: bool = False) -> Markup:
    """The tick labels that stand over a column of whiskers."""
    plot = Plot(CELL_WIDTH, 14, scale, (0, 1), left=CELL_MARGIN, right=CELL_MARGIN, top=0, bottom=0)
    marks = _inner_ticks(scale)
    write = points if in_points else percent
    # Five labels would touch: of so many, every second, and 0 among them if it is there.
    shown = marks if len(marks) < 5 else marks[marks.index(0.0) % 2 if 0.0 in marks else 0 :: 2]
    digits = 1 if any(abs(100 * v - round(100 * v)) > 1e-6 for v in shown) else 0
    labels = [text(plot.x(v), 11, write(v, digits), "middle", "tick") for v in shown]
    return svg_image(CELL_WIDTH, 14, "scale of the figures below", *labels, class_="cell")


def _inner_ticks(scale: Range) -> list[float]:
    return [v for v in ticks(*scale, about=4) if scale[0] <= v <= scale[1]]


def split_bars(shares: Sequence[tuple[str, float]], largest: float, label: str) -> Markup:
    """Thin bars under one another, one for each split, for a table cell."""
    height = 8 * len(shares) + 2
    parts = [
        element(
            "rect",
            element("title", f"{split}: {percent(share)}"),
            x=0,
            y=8 * i + 2,
            width=max(1.0, 110 * share / (largest or 1)),
            height=6,
            class_=f"bar b{i}",
        )
        for i, (split, share) in enumerate(shares)
    ]
    said = ", ".join(f"{split} {percent(share)}" for split, share in shares)
    return svg_image(112, height, f"Share of {label}: {said}", *parts, class_="cell")


def f1_by_label(
    before: Sequence[Row], after: Sequence[Row], names: tuple[str, str], classes: tuple[str, str]
) -> Markup:
    """F1 of each label under two variants, with intervals."""
    step = 34 if len(after) <= 12 else 26
    longest = max(len(part) for row in after for part in wrap_label(row["label"]))
    left = 18 + 7.0 * longest
    plot = Plot(
        WIDTH, 44 + step * len(after), (0, 1), (0, 1), left=left, right=16, top=6, bottom=38
    )
    base = plot.height - plot.bottom
    parts = [line(plot.x(v), plot.top, plot.x(v), base, "grid") for v, _ in PERCENT_TICKS]
    parts += [text(plot.x(v), base + 15, name, "middle", "tick") for v, name in PERCENT_TICKS]
    parts.append(text(plot.x(0.5), plot.height - 5, "F1", "middle", "name"))
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        y = plot.top + step * (i + 0.5)
        lines = wrap_label(new["label"])
        parts += [
            text(left - 10, y + 4 + 13 * (k - (len(lines) - 1) / 2), part, "end", "label")
            for k, part in enumerate(lines)
        ]
        for row, class_, name, offset in (
            (old, f"{classes[0]} hollow", names[0], -5.5),
            (new, classes[1], names[1], 5.5),
        ):
            figure = row["f1"]
            if figure["value"] is None:
                continue
            if figure["low"] is not None:
                parts.append(
                    line(
                        plot.x(figure["low"]),
                        y + offset,
                        plot.x(figure["high"]),
                        y + offset,
                        f"band {class_}",
                    )
                )
            parts.append(
                dot(
                    plot.x(figure["value"]),
                    y + offset,
                    3.5,
                    f"dot {class_}",
                    f"{new['label']}, {name}: F1 {percent(figure['value'])}",
                )
            )
    return svg_image(
        plot.width, plot.height, f"F1 of each label, {names[0]} and {names[1]}", *parts
    )


def wrap_label(label: str) -> list[str]:
    """A label in at most two lines of `LONGEST_LINE` characters, cut where it is longer still."""
    lines = wrap(label, LONGEST_LINE) or [""]
    if len(lines) > 2:
        lines = [lines[0], wrap(label, LONGEST_LINE - 1)[1] + "…"]
    return lines


def reliability_diagram(before: Sequence[Row], after: Sequence[Row] | None, name: str) -> Markup:
    """Accuracy against confidence in bins, before and after temperature scaling, with the bins'
    sizes below."""
    plot = Plot(300, 322, (0, 1), (0, 1), left=50, right=14, top=10, bottom=76)
    parts: list[Markup] = [
        plot.axes(PERCENT_TICKS, PERCENT_TICKS, "", "share right"),
        text(plot.x(0.5), plot.height - plot.bottom + 30, "confidence", "middle", "name"),
        line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), "ideal"),
    ]
    shown = after or before
    parts += _bin_sizes(plot, shown)
    if after is not None:
        parts.append(
            path([(plot.x(p["confidence"]), plot.y(p["accuracy"])) for p in before], "line before")
        )
        parts += [
            dot(
                plot.x(p["confidence"]),
                plot.y(p["accuracy"]),
                3,
                "dot before hollow",
                f"before: {_bin_title(p)}",
            )
            for p in before
        ]
    class_ = "after" if after is not None else "before"
    parts += [
        line(
            plot.x(p["confidence"]),
            plot.y(p["low"]),
            plot.x(p["confidence"]),
            plot.y(p["high"]),
            f"error {class_}",
        )
        for p in shown
    ]
    parts.append(
        path([(plot.x(p["confidence"]), plot.y(p["accuracy"])) for p in shown], f"line {class_}")
    )
    parts += [
        dot(plot.x(p["confidence"]), plot.y(p["accuracy"]), 4, f"dot {class_}", _bin_title(p))
        for p in shown
    ]
    return svg_image(
        plot.width, plot.height, f"Reliability of {name}: accuracy against confidence", *parts
    )


def _bin_sizes(plot: Plot, shown: Sequence[Row]) -> list[Markup]:
    largest = max((p["n"] for p in shown), default=1)
    parts = [text(plot.left - 6, plot.height - 8, "n", "end", "tick")]
    for p in shown:
        height = max(24 * p["n"] / largest, 1.0)
        left, right = plot.x(p["from"]) + 0.7, plot.x(p["to"]) - 0.7
        parts.append(
            element(
                "rect",
                element("title", f"{count(p['n'])} examples"),
                x=left,
                y=plot.height - 4 - height,
                width=right - left,
                height=height,
                class_="bar",
            )
        )
    return parts


def _bin_title(p: Row) -> str:
    return (
        f"confidence {percent(p['confidence'])}, right {percent(p['accuracy'])} of {count(p['n'])}"
    )


def risk_coverage_curves(
    series: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]], target: float | None
) -> Markup:
    """Error among the answers given, by the share of examples answered.

    Args:
        series: (variant's name, colour class, points of ``coverage`` and ``risk``).
        target: accuracy aimed at, drawn as a line.
    """
    highest = max((p["risk"] for _, _, pts in series for p in pts), default=1) or 0.05
    marks = [v for v in ticks(0, highest, 5) if v <= 1]
    plot = Plot(WIDTH, 300, (0, 1), (0, max(marks[-1], highest)), left=50, right=16)
    digits = 0 if marks[-1] >= 0.05 else 1
    parts: list[Markup] = [
        plot.axes(
            PERCENT_TICKS,
            [(v, percent(v, digits)) for v in marks],
            "share answered, surest first",
            "wrong among them",
        )
    ]
    aim: list[Markup] = []
    if target is not None and 1 - target <= marks[-1]:
        y = plot.y(1 - target)
        aim = [
            line(plot.left, y, plot.width - plot.right, y, "ideal"),
            text(
                plot.width - plot.right,
                y - 5,
                f"target: {percent(target)} right",
                "end",
                "tick over",
            ),
        ]
    parts += [
        element(
            "g",
            element("title", name),
            path([(plot.x(p["coverage"]), plot.y(p["risk"])) for p in pts], f"line {class_}"),
        )
        for name, class_, pts in series
    ]
    return svg_image(
        plot.width, plot.height, "Error against coverage of each variant", *parts, *aim
    )


def threshold_curve(found: Row, f1: float, name: str) -> Markup:
    """F1 on test questions against the no-answer threshold, with the one that was chosen on
    validation.

    Args:
        found: ``value``, ``f1_without`` and ``curve`` (``threshold``, ``f1``, thresholds
            ascending).
        f1: at the chosen threshold.
        name: of the variant.
    """
    curve, chosen, without = found["curve"], found["value"], found["f1_without"]
    ends = [chosen, *(p["threshold"] for p in curve)]
    margin = 0.04 * (max(ends) - min(ends)) or 1.0
    scale = min(ends) - margin, max(ends) + margin
    shown = [f1, without, *(p["f1"] for p in curve)]
    marks = ticks(max(0.0, min(shown) - 0.02), min(1.0, max(shown) + 0.02), 5)
    plot = Plot(300, 250, scale, (marks[0], marks[-1]), left=50, right=14)
    digits = 0 if marks[1] - marks[0] >= 0.01 else 1
    parts: list[Markup] = [
        plot.axes(
            [(v, significant(v)) for v in ticks(*scale, about=4) if scale[0] <= v <= scale[1]],
            [(v, percent(v, digits)) for v in marks],
            "threshold (nats)",
            "F1",
        ),
        line(plot.left, plot.y(without), plot.width - plot.right, plot.y(without), "ideal"),
    ]
    # F1 stays what it is up to the next question's score, and below the first and above the last
    # for ever.
    steps = [(plot.x(scale[0]), plot.y(curve[0]["f1"]))]
    for point in curve:
        steps += [
            (plot.x(point["threshold"]), steps[-1][1]),
            (plot.x(point["threshold"]), plot.y(point["f1"])),
        ]
    parts.append(path([*steps, (plot.x(scale[1]), steps[-1][1])], "line after"))
    best = max(curve, key=lambda p: p["f1"])
    parts += [
        dot(
            plot.x(best["threshold"]),
            plot.y(best["f1"]),
            4,
            "dot after hollow",
            f"best on test: {significant(best['threshold'])} nats, F1 {percent(best['f1'])}",
        ),
        dot(
            plot.x(chosen),
            plot.y(f1),
            5,
            "dot after",
            f"chosen: {significant(chosen)} nats, F1 {percent(f1)}",
        ),
    ]
    return svg_image(
        plot.width, plot.height, f"F1 of {name} against its no-answer threshold", *parts
    )


def learning_curves(
    train: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]], name: str
) -> Markup:
    """Loss by optimisation step, on training batches and on validation rows."""
    everything = [*train, *validation]
    last = max(step for step, _ in everything)
    marks = ticks(0, max(loss for _, loss in everything), 4)
    plot = Plot(WIDTH, 280, (0, last), (0, marks[-1]), left=50, right=18)
    parts: list[Markup] = [
        plot.axes(
            [(v, count(v)) for v in ticks(0, last, 4) if v <= last],
            [(v, significant(v)) for v in marks],
            "step",
            "loss (nats)",
        )
    ]
    if train:
        parts.append(path([(plot.x(s), plot.y(v)) for s, v in train], "line before"))
        parts += [
            dot(
                plot.x(s),
                plot.y(v),
                2.5,
                "dot before",
                f"training, step {count(s)}: {significant(v)}",
            )
            for s, v in train
            if len(train) <= 60
        ]
    if validation:
        parts.append(path([(plot.x(s), plot.y(v)) for s, v in validation], "line after"))
        parts += [
            dot(
                plot.x(s),
                plot.y(v),
                4,
                "dot after",
                f"validation, step {count(s)}: {significant(v)}",
            )
            for s, v in validation
        ]
    return svg_image(plot.width, plot.height, f"Learning curves of {name}", *parts)


def layer_heatmap(
    grid: Mapping[tuple[str, int], Row], rows: Sequence[str], depth: int, name: str
) -> Markup:
    """Relative weight change as a grid: one row per kind of matrix, one column per layer."""
    left, cell, step = 84.0, max(7.0, min(22.0, 620 / depth)), 22.0
    base = step * len(rows)
    width, height = max(left + cell * depth + 6, 300.0), base + 60
    largest = max(float(entry["relative_change"]) for entry in grid.values()) or 1.0
    parts = [text(left - 8, step * i + 15, row, "end", "label") for i, row in enumerate(rows)]
    for (row, layer), entry in grid.items():
        share = float(entry["relative_change"]) / largest
        title = (
            f"layer {layer}, {row}: {percent(entry['relative_change'], 2)}, "
            f"effective rank {significant(entry.get('effective_rank'))}"
        )
        parts.append(
            _heat(left + cell * layer, step * rows.index(row), cell - 1.5, step - 1.5, share, title)
        )
    every = next((s for s in (1, 2, 5, 10, 20, 50) if depth / s <= 16), 100)
    parts += [
        text(left + cell * (i + 0.5) - 0.75, base + 14, i, "middle", "tick")
        for i in range(0, depth, every)
    ]
    parts.append(text(left - 8, base + 14, "layer", "end", "name"))
    parts.append(text(left - 8, base + 46, "0%", "end", "tick"))
    parts += [_heat(left + 14 * i, base + 34, 13, 14, i / 7) for i in range(8)]
    parts.append(
        text(
            left + 14 * 8 + 6, base + 46, f"{percent(largest)} of the weights’ norm", class_="tick"
        )
    )
    return svg_image(width, height, f"Weight change by layer of {name}", *parts)


def _heat(
    x: float, y: float, width: float, height: float, share: float, title: str | None = None
) -> Markup:
    inside = [element("title", title)] if title else []
    return element(
        "rect",
        *inside,
        x=x,
        y=y,
        width=width,
        height=height,
        rx=2,
        class_="heat",
        fill_opacity=0.05 + 0.95 * share,
    )
