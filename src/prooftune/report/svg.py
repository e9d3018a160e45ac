"""SVG primitives for the figures of the page.

Not matplotlib, for three reasons: colours come from the page's style sheet, so figures follow dark
mode and print; text stays text in the page's font; and a figure takes a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from markupsafe import Markup, escape

Range = tuple[float, float]


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """An SVG element with children and attribute values escaped; ``_`` in names becomes ``-``."""
    rendered = "".join(
        # `class_` is `class`, which is a keyword of Python.
        f' {key.rstrip("_").replace("_", "-")}="{escape(short_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    # `escape` leaves alone what is Markup already: children are escaped once.
    inner = Markup("").join(escape(child) for child in children)
    return (
        Markup(f"<{name}{rendered}>{inner}</{name}>")
        if children
        else Markup(f"<{name}{rendered}/>")
    )


def short_number(value: object) -> str:
    """A coordinate with at most two decimals."""
    # A hundredth of a pixel is below what a screen shows; more digits only make the page larger.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def svg_image(
    width: float, height: float, label: str, *children: Any, class_: str = "chart"
) -> Markup:
    """An SVG image with an accessible label."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {short_number(width)} {short_number(height)}",
        width=float(width),
        height=float(height),
        class_=class_,
        role="img",
        aria_label=label,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def text(
    x: float,
    y: float,
    content: object,
    anchor: str = "start",
    class_: str | None = None,
    **more: Any,
) -> Markup:
    return element(
        "text",
        content,
        x=float(x),
        y=float(y),
        text_anchor=None if anchor == "start" else anchor,
        class_=class_,
        **more,
    )


def dot(x: float, y: float, radius: float, class_: str, title: str | None = None) -> Markup:
    children = [element("title", title)] if title else []
    return element("circle", *children, cx=float(x), cy=float(y), r=float(radius), class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    steps = "L".join(f"{short_number(float(x))} {short_number(float(y))}" for x, y in points)
    return element("path", d=f"M{steps}", class_=class_)


@dataclass(frozen=True, slots=True)
class Plot:
    """A plotting area: maps data to image coordinates, with margins for the labels."""

    width: float
    height: float
    x_range: Range
    y_range: Range
    left: float = 40
    right: float = 12
    top: float = 10
    bottom: float = 38

    def x(self, value: float) -> float:
        low, high = self.x_range
        # A range of zero width maps to the left edge.
        return self.left + (value - low) / ((high - low) or 1) * (
            self.width - self.left - self.right
        )

    def y(self, value: float) -> float:
        low, high = self.y_range
        # In SVG y grows downwards.
        return (
            self.height
            - self.bottom
            - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)
        )

    def axes(
        self,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
    ) -> Markup:
        """Grid lines, tick labels and axis labels."""
        base, middle = self.height - self.bottom, (self.top + self.height - self.bottom) / 2
        parts = [
            line(self.left, self.y(v), self.width - self.right, self.y(v), "grid")
            for v, _ in y_ticks
        ]
        parts += [text(self.left - 6, self.y(v) + 3.5, name, "end", "tick") for v, name in y_ticks]
        parts += [line(self.x(v), base, self.x(v), base + 4, "axis") for v, _ in x_ticks]
        parts += [text(self.x(v), base + 16, name, "middle", "tick") for v, name in x_ticks]
        parts += [
            line(self.left, base, self.width - self.right, base, "axis"),
            text(
                (self.left + self.width - self.right) / 2,
                self.height - 5,
                x_label,
                "middle",
                "name",
            ),
            text(
                11,
                middle,
                y_label,
                "middle",
                "name",
                transform=f"rotate(-90 11 {short_number(middle)})",
            ),
        ]
        return Markup("").join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover a range, 1, 2 or 5 times a power of ten apart."""
    step = _round_step((high - low) / max(about, 1))
    # The tolerance keeps a range that ends on a tick, up to rounding, from getting another tick.
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _round_step(rough: float) -> float:
    if rough <= 0:
        return 1.0
    power = 10.0 ** floor(log10(rough))
    # The tolerance is for steps that are round but for the last bits.
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
