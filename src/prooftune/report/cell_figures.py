"""Small figures inside table cells: values with intervals, and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from prooftune.evaluation.score_types import Estimate
from prooftune.report.format import PERCENT, NumberFormat, format_change, format_value, percent
from prooftune.report.svg import Plot, Range, dot, element, line, svg_image, text, ticks

WIDTH = 150
MARGIN = 13


def whisker(figure: Estimate, scale: Range, class_: str, label: str, zero: bool = False) -> Markup:
    """A value with its interval as a band on a thin track.

    Args:
        figure: ``value``, ``low``, ``high``; ``trainings`` are marked as dots.
        scale: values at the left and right edge, the same for all rows.
        class_: CSS class of the colour.
        label: accessible label.
        zero: whether to draw a line at 0.
    """
    width, height = WIDTH, 26
    # A whisker has one dimension; the range of the other is never used.
    plot = Plot(width, height, scale, (0, 1), left=MARGIN, right=MARGIN, top=0, bottom=0)
    middle = height / 2
    parts = [line(MARGIN, middle, width - MARGIN, middle, "track")]
    parts += [
        line(plot.x(v), middle - 3, plot.x(v), middle + 3, "track") for v in _inner_ticks(scale)
    ]
    if zero:
        parts.append(line(plot.x(0), 0, plot.x(0), height, "axis"))
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
    parts += [
        dot(plot.x(value), middle, 2, f"dot {class_}") for value in figure.get("trainings") or []
    ]
    return svg_image(width, height, label, *parts, class_="cell")


def whisker_axis(scale: Range, form: NumberFormat = PERCENT, signs: bool = False) -> Markup:
    """The tick labels above a column of whiskers; those of differences have signs and no unit."""
    plot = Plot(WIDTH, 14, scale, (0, 1), left=MARGIN, right=MARGIN, top=0, bottom=0)
    positions = _inner_ticks(scale)
    # Five labels would touch, so only every second is shown, including 0 where it is a tick.
    shown = (
        positions
        if len(positions) < 5
        else positions[positions.index(0.0) % 2 if 0.0 in positions else 0 :: 2]
    )
    # Decimals only where a tick needs them, as 2.5.
    most = 1 if form is PERCENT else form.digits
    digits = next(
        d
        for d in range(most + 1)
        if d == most or all(abs(form.scale * v - round(form.scale * v, d)) < 1e-6 for v in shown)
    )
    ticks_form = replace(form, digits=digits)
    format_tick = format_change if signs else format_value
    labels = [text(plot.x(v), 11, format_tick(v, ticks_form), "middle", "tick") for v in shown]
    return svg_image(WIDTH, 14, "scale of the figures below", *labels, class_="cell")


def _inner_ticks(scale: Range) -> list[float]:
    return [v for v in ticks(*scale, about=4) if scale[0] <= v <= scale[1]]


def split_bars(shares: Sequence[tuple[str, float]], largest: float, label: str) -> Markup:
    """Thin bars, one for each split."""
    height = 8 * len(shares) + 2
    parts = [
        element(
            "rect",
            element("title", f"{split}: {percent(share)}"),
            x=0,
            y=8 * i + 2,
            # At least a pixel: a rare label is not an absent one.
            width=max(1.0, 110 * share / (largest or 1)),
            height=6,
            class_=f"bar b{i}",
        )
        for i, (split, share) in enumerate(shares)
    ]
    description = ", ".join(f"{split} {percent(share)}" for split, share in shares)
    return svg_image(112, height, f"Share of {label}: {description}", *parts, class_="cell")
