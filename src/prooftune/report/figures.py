"""The figures of the report: each takes plain figures and returns an inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from prooftune.report.format import count, percent, points, significant
from prooftune.report.svg import Plot, Range, dot, drawing, el, line, path, text, ticks

PERCENT_TICKS = [(v, percent(v, 0)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]


def whisker(figure: Mapping[str, Any], scale: Range, class_: str, label: str, zero: bool = False) -> Markup:
    """A dot with its interval on a thin track, for a table cell.

    Args:
        figure: ``value``, ``low``, ``high``.
        scale: values at the left and right end, the same for all rows.
        class_: of the series' colour.
        label: what it shows, in words.
        zero: draw a line at 0.
    """
    width, height = 190, 22
    plot = Plot(width, height, scale, (0, 1), left=7, right=7, top=0, bottom=0)
    middle = height / 2
    parts = [line(7, middle, width - 7, middle, "track")]
    parts += [line(plot.x(v), middle - 3, plot.x(v), middle + 3, "track") for v in ticks(*scale, about=4)
              if scale[0] <= v <= scale[1]]
    if zero:
        parts.append(line(plot.x(0), 1, plot.x(0), height - 1, "axis"))
    if figure.get("low") is not None:
        parts.append(line(plot.x(figure["low"]), middle, plot.x(figure["high"]), middle, f"whisker {class_}"))
    parts.append(dot(plot.x(figure["value"]), middle, 5, f"dot {class_}"))
    return drawing(width, height, label, *parts, class_="cell")


def whisker_axis(scale: Range, in_points: bool = False) -> Markup:
    """The tick labels that stand over a column of whiskers."""
    plot = Plot(190, 14, scale, (0, 1), left=7, right=7, top=0, bottom=0)
    shown = [v for v in ticks(*scale, about=4) if scale[0] <= v <= scale[1]]
    labels = [text(plot.x(v), 11, points(v, 0) if in_points else percent(v, 0),
                   "start" if plot.x(v) < 16 else "end" if plot.x(v) > 174 else "middle", "tick") for v in shown]
    return drawing(190, 14, "scale of the figures below", *labels, class_="cell")


def per_class(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], names: tuple[str, str],
              classes: tuple[str, str]) -> Markup:
    """F1 of each label under two variants, with intervals, joined by a line."""
    longest = max(len(row["label"]) for row in after)
    left = min(150.0, 14 + 6.4 * min(longest, 22))
    plot = Plot(460, 40 + 34 * len(after), (0, 1), (0, 1), left=left, right=14, top=6, bottom=34)
    parts = [line(plot.x(v), plot.top, plot.x(v), plot.height - plot.bottom, "grid") for v, _ in PERCENT_TICKS]
    parts += [text(plot.x(v), plot.height - plot.bottom + 15, name, "middle", "tick") for v, name in PERCENT_TICKS]
    parts.append(text(plot.x(0.5), plot.height - 3, "F1", "middle", "name"))
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        y = plot.top + 34 * i + 17
        label = new["label"] if len(new["label"]) <= 22 else new["label"][:21] + "…"
        parts.append(text(plot.left - 10, y + 4, label, "end", "label"))
        for row, class_, name, offset in ((old, classes[0], names[0], 5), (new, classes[1], names[1], -5)):
            figure = row["f1"]
            if figure["value"] is None:
                continue
            parts += [line(plot.x(figure["low"]), y + offset, plot.x(figure["high"]), y + offset, f"whisker {class_}"),
                      dot(plot.x(figure["value"]), y + offset, 5, f"dot {class_}",
                          f"{new['label']}, {name}: F1 {percent(figure['value'])}")]
    return drawing(plot.width, plot.height, f"F1 of each label, {names[0]} and {names[1]}", *parts)


def reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None, name: str) -> Markup:
    """Accuracy against confidence in bins, before and after temperature scaling, with the bins' sizes below."""
    plot = Plot(300, 300, (0, 1), (0, 1), left=44, right=12, top=8, bottom=78)
    parts: list[Markup] = [plot.frame(PERCENT_TICKS, PERCENT_TICKS, "confidence", "accuracy"),
                           line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), "ideal")]
    shown = after or before
    largest = max((p["n"] for p in shown), default=1)
    for p in shown:
        height = 26 * p["n"] / largest
        left, right = plot.x(p["from"]) + 0.7, plot.x(p["to"]) - 0.7
        parts.append(el("rect", el("title", f"{count(p['n'])} examples"), x=left, y=plot.height - 18 - height,
                        width=right - left, height=max(height, 0.8), class_="bar"))
    if after is not None:
        parts.append(path([(plot.x(p["confidence"]), plot.y(p["accuracy"])) for p in before], "line before"))
        parts += [dot(plot.x(p["confidence"]), plot.y(p["accuracy"]), 3, "dot before") for p in before]
    class_ = "after" if after is not None else "before"
    parts += [line(plot.x(p["confidence"]), plot.y(p["low"]), plot.x(p["confidence"]), plot.y(p["high"]),
                   f"error {class_}") for p in shown]
    parts.append(path([(plot.x(p["confidence"]), plot.y(p["accuracy"])) for p in shown], f"line {class_}"))
    parts += [dot(plot.x(p["confidence"]), plot.y(p["accuracy"]), 4, f"dot {class_}",
                  f"confidence {percent(p['confidence'])}, right {percent(p['accuracy'])} of {count(p['n'])}")
              for p in shown]
    return drawing(plot.width, plot.height, f"Reliability of {name}: accuracy against confidence", *parts)


def risk_coverage(series: Sequence[tuple[str, str, Sequence[Mapping[str, float]]]], target: float | None) -> Markup:
    """Error among the answers given, by the share of examples answered.

    Args:
        series: (variant's name, colour class, points of ``coverage`` and ``risk``).
        target: accuracy aimed at, drawn as a line.
    """
    highest = max((p["risk"] for _, _, pts in series for p in pts), default=1) or 0.05
    marks = [v for v in ticks(0, highest, 5) if v <= 1]
    plot = Plot(460, 300, (0, 1), (0, marks[-1]), left=46, right=14)
    parts: list[Markup] = [plot.frame(PERCENT_TICKS, [(v, percent(v, 0)) for v in marks],
                                      "share of examples answered, surest first", "wrong among them")]
    if target is not None and 1 - target <= marks[-1]:
        parts += [line(plot.left, plot.y(1 - target), plot.width - plot.right, plot.y(1 - target), "ideal"),
                  text(plot.left + 5, plot.y(1 - target) - 5, f"target: {percent(target)} right", class_="tick")]
    parts += [el("g", el("title", name), path([(plot.x(p["coverage"]), plot.y(p["risk"])) for p in pts],
                                             f"line {class_}")) for name, class_, pts in series]
    return drawing(plot.width, plot.height, "Error against coverage of each variant", *parts)


def learning(train: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]], name: str) -> Markup:
    """Loss by optimisation step, on training batches and on validation rows."""
    everything = [*train, *validation]
    marks = ticks(0, max(loss for _, loss in everything), 4)
    steps = ticks(0, max(step for step, _ in everything), 4)
    plot = Plot(460, 260, (0, max(step for step, _ in everything)), (0, marks[-1]), left=46, right=16)
    parts: list[Markup] = [plot.frame([(v, count(v)) for v in steps if v <= plot.x_range[1]],
                                      [(v, significant(v)) for v in marks], "step", "loss (nats)")]
    if train:
        parts.append(path([(plot.x(s), plot.y(v)) for s, v in train], "line before"))
    if validation:
        parts.append(path([(plot.x(s), plot.y(v)) for s, v in validation], "line after"))
        parts += [dot(plot.x(s), plot.y(v), 4, "dot after", f"step {count(s)}: {significant(v)}")
                  for s, v in validation]
    return drawing(plot.width, plot.height, f"Learning curves of {name}", *parts)


def layers(grid: Mapping[tuple[str, int], Mapping[str, Any]], rows: Sequence[str], depth: int, name: str) -> Markup:
    """Relative weight change as a grid: one row per kind of matrix, one column per layer."""
    left, cell = 78.0, max(7.0, min(18.0, 560 / depth))
    width, height = left + cell * depth + 6, 20.0 * len(rows) + 34
    largest = max(float(entry["relative_change"]) for entry in grid.values()) or 1.0
    parts = [text(left - 8, 20 * i + 14, row, "end", "label") for i, row in enumerate(rows)]
    for (row, layer), entry in grid.items():
        share = float(entry["relative_change"]) / largest
        title = (f"layer {layer}, {row}: {percent(entry['relative_change'], 2)}, "
                 f"effective rank {significant(entry.get('effective_rank'))}")
        parts.append(el("rect", el("title", title), x=left + cell * layer, y=20.0 * rows.index(row), width=cell - 1.5,
                        height=18.5, rx=2, class_="heat", fill_opacity=0.06 + 0.94 * share))
    step = next(s for s in (1, 2, 5, 10, 20, 50) if depth / s <= 12)
    parts += [text(left + cell * (i + 0.5) - 0.75, 20 * len(rows) + 14, i, "middle", "tick")
              for i in range(0, depth, step)]
    parts.append(text(left + cell * depth / 2, height - 4, "layer", "middle", "name"))
    return drawing(width, height, f"Weight change by layer of {name}", *parts)
