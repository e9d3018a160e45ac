"""Figures of the report, as inline SVG.

They are about as wide as a phone's screen, so their text stays readable there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from markupsafe import Markup

from prooftune.evaluation.score_types import RiskPoint
from prooftune.report.format import count, percent, significant
from prooftune.report.svg import Plot, dot, element, line, path, svg_image, text, ticks

Row = Mapping[str, Any]
PERCENT_TICKS = [(v, percent(v, 0)) for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
WIDTH = 400
MAX_LINE_LENGTH = 20


def f1_by_label(
    before: Sequence[Row], after: Sequence[Row], names: tuple[str, str], classes: tuple[str, str]
) -> Markup:
    """F1 by label of two variants, with intervals."""
    # Narrower rows for many labels: the figure is to fit on a screen.
    step = 34 if len(after) <= 12 else 26
    longest = max(len(part) for row in after for part in wrap_label(row["label"]))
    # SVG does not measure text: 7 pixels for a character of this font are enough.
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
        # Before above the label's line, after below it.
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
    """Wrap a label into at most two lines of `MAX_LINE_LENGTH` characters; cut longer ones."""
    lines = wrap(label, MAX_LINE_LENGTH) or [""]
    if len(lines) > 2:
        # One character less, for the ellipsis.
        lines = [lines[0], wrap(label, MAX_LINE_LENGTH - 1)[1] + "…"]
    return lines


def reliability_diagram(before: Sequence[Row], after: Sequence[Row] | None, name: str) -> Markup:
    """Accuracy against confidence per bin, before and after temperature scaling.

    Bars below show the bin sizes.
    """
    plot = Plot(300, 322, (0, 1), (0, 1), left=50, right=14, top=10, bottom=76)
    parts: list[Markup] = [
        plot.axes(PERCENT_TICKS, PERCENT_TICKS, "", "accuracy"),
        text(plot.x(0.5), plot.height - plot.bottom + 30, "confidence", "middle", "name"),
        line(plot.x(0), plot.y(0), plot.x(1), plot.y(1), "ideal"),
    ]
    # The bars are of the probabilities that are used: after the temperature, if there is one.
    bins = after or before
    parts += _bin_sizes(plot, bins)
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
        for p in bins
    ]
    parts.append(
        path([(plot.x(p["confidence"]), plot.y(p["accuracy"])) for p in bins], f"line {class_}")
    )
    parts += [
        dot(plot.x(p["confidence"]), plot.y(p["accuracy"]), 4, f"dot {class_}", _bin_title(p))
        for p in bins
    ]
    return svg_image(
        plot.width, plot.height, f"Reliability of {name}: accuracy against confidence", *parts
    )


def _bin_sizes(plot: Plot, bins: Sequence[Row]) -> list[Markup]:
    largest = max((p["n"] for p in bins), default=1)
    parts = [text(plot.left - 6, plot.height - 8, "n", "end", "tick")]
    for p in bins:
        # A pixel at least, for a bin of one example among thousands.
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
        f"confidence {percent(p['confidence'])}, accuracy {percent(p['accuracy'])}, "
        f"n = {count(p['n'])}"
    )


def risk_coverage_curves(
    series: Sequence[tuple[str, str, Sequence[RiskPoint]]], target: float | None
) -> Markup:
    """Error rate among the answers given, by the share of examples answered.

    Args:
        series: (variant's name, colour class, points of ``coverage`` and ``risk``).
        target: target accuracy, drawn as a line. Default: no line.
    """
    # Without any error the axis needs a height all the same.
    highest = max((p["risk"] for _, _, pts in series for p in pts), default=1) or 0.05
    risk_ticks = [v for v in ticks(0, highest, 5) if v <= 1]
    has_target = target is not None and 1 - target <= risk_ticks[-1]
    # The target's label is above the plot: curves pass everywhere inside.
    top = 26 if has_target else 10
    plot = Plot(WIDTH, 300, (0, 1), (0, max(risk_ticks[-1], highest)), left=50, right=16, top=top)
    digits = 0 if risk_ticks[-1] >= 0.05 else 1
    parts: list[Markup] = [
        plot.axes(
            PERCENT_TICKS,
            [(v, percent(v, digits)) for v in risk_ticks],
            "coverage, most confident first",
            "error rate",
        )
    ]
    if has_target and target is not None:
        y, end = plot.y(1 - target), plot.width - plot.right
        label = f"grey line: target accuracy {percent(target)}"
        parts += [
            line(plot.left, y, end, y, "ideal"),
            text(end, plot.top - 12, label, "end", "tick"),
        ]
    parts += [
        element(
            "g",
            element("title", name),
            path([(plot.x(p["coverage"]), plot.y(p["risk"])) for p in pts], f"line {class_}"),
        )
        for name, class_, pts in series
    ]
    return svg_image(plot.width, plot.height, "Error against coverage of each variant", *parts)


def threshold_curve(no_answer: Row, f1: float, name: str) -> Markup:
    """F1 on test questions against the no-answer threshold, with the chosen one marked.

    Args:
        no_answer: ``value``, ``f1_without`` and ``curve`` (``threshold``, ``f1``, thresholds
            ascending).
        f1: at the chosen threshold.
        name: name of the variant.
    """
    curve, chosen, without = no_answer["curve"], no_answer["value"], no_answer["f1_without"]
    values = [chosen, *(p["threshold"] for p in curve)]
    margin = 0.04 * (max(values) - min(values)) or 1.0
    # The chosen threshold may be outside the curve of the test questions.
    scale = min(values) - margin, max(values) + margin
    f1_values = [f1, without, *(p["f1"] for p in curve)]
    marks = ticks(max(0.0, min(f1_values) - 0.02), min(1.0, max(f1_values) + 0.02), 5)
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
    # F1 only changes at the no-answer score of a question: a step function, constant at both ends.
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
