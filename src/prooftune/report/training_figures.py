"""Figures of training: learning curves, and weight change by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from prooftune.report.figures import WIDTH
from prooftune.report.format import count, percent, significant
from prooftune.report.svg import Plot, dot, element, path, svg_image, text, ticks
from prooftune.variant_details import LayerChange

Curve = Sequence[tuple[float, float]]
"""Points (step, loss)."""


def learning_curves(
    train: Curve, validation: Curve, name: str, others: Sequence[tuple[Curve, Curve]] = ()
) -> Markup:
    """Loss by optimiser step, on training batches and on validation rows.

    Args:
        train: the loss on training batches.
        validation: the loss on validation rows.
        name: the variant.
        others: the same of its other trainings, which are drawn thin.
    """
    # All trainings on one scale.
    points = [*train, *validation, *(p for pair in others for curve in pair for p in curve)]
    last = max(step for step, _ in points)
    # From 0, or a small decline would look large.
    loss_ticks = ticks(0, max(loss for _, loss in points), 4)
    plot = Plot(WIDTH, 280, (0, last), (0, loss_ticks[-1]), left=50, right=18)
    parts: list[Markup] = [
        plot.axes(
            [(v, count(v)) for v in ticks(0, last, 4) if v <= last],
            [(v, significant(v)) for v in loss_ticks],
            "step",
            "loss (nats)",
        )
    ]
    for pair in others:
        parts += [
            path([(plot.x(s), plot.y(v)) for s, v in curve], f"line thin {style}")
            for curve, style in zip(pair, ("before", "after"), strict=True)
            if curve
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
            # With more dots the line would be hidden under them.
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
    return svg_image(plot.width, plot.height, f"Loss of {name} during training", *parts)


QUALITY_STYLES = ("after", "before")
"""CSS class of each quality curve."""


def quality_curves(quality: Mapping[str, Mapping[int, float]], name: str) -> Markup:
    """The metrics of `recipe.metrics.QUALITY_METRICS` on validation rows by optimiser step.

    Args:
        quality: metric -> step -> value, 0 to 1.
        name: the variant.
    """
    last = max(step for points in quality.values() for step in points)
    plot = Plot(WIDTH, 280, (0, last), (0, 1), left=50, right=18)
    parts: list[Markup] = [
        plot.axes(
            [(v, count(v)) for v in ticks(0, last, 4) if v <= last],
            [(v, percent(v, 0)) for v in ticks(0, 1, 4)],
            "step",
            "quality on validation rows",
        )
    ]
    # Not strict: a task has one or two of these metrics.
    for style, (title, points) in zip(QUALITY_STYLES, quality.items(), strict=False):
        places = [(plot.x(step), plot.y(value)) for step, value in points.items()]
        parts.append(path(places, f"line {style}"))
        parts += [
            dot(x, y, 4, f"dot {style}", f"{title}, step {count(step)}: {percent(value)}")
            for (x, y), (step, value) in zip(places, points.items(), strict=True)
        ]
    return svg_image(plot.width, plot.height, f"Quality of {name} during training", *parts)


def layer_heatmap(
    grid: Mapping[tuple[str, int], LayerChange], rows: Sequence[str], depth: int, name: str
) -> Markup:
    """Relative weight change as a heatmap: one row per matrix type, one column per layer."""
    left, cell, step = 84.0, max(7.0, min(22.0, 620 / depth)), 22.0
    base = step * len(rows)
    width, height = max(left + cell * depth + 6, 300.0), base + 60
    # A training without effect (learning rate 0) changes nothing: no 0 / 0.
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
    # At most 16 numbers below the columns.
    tick_step = next((s for s in (1, 2, 5, 10, 20, 50) if depth / s <= 16), 100)
    parts += [
        text(left + cell * (i + 0.5) - 0.75, base + 14, i, "middle", "tick")
        for i in range(0, depth, tick_step)
    ]
    parts.append(text(left - 8, base + 14, "layer", "end", "name"))
    parts.append(text(left - 8, base + 46, "0%", "end", "tick"))
    # The legend: eight shades from none to the largest change.
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
    children = [element("title", title)] if title else []
    return element(
        "rect",
        *children,
        x=x,
        y=y,
        width=width,
        height=height,
        rx=2,
        class_="heat",
        # A cell without change is pale, and not missing.
        fill_opacity=0.05 + 0.95 * share,
    )
