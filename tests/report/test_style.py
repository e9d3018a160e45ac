"""Colours that everyone can read: contrast as WCAG 2.2 level AA asks, in light, in dark and on
paper."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from prooftune.report.build import STYLES

STYLE = "".join(path.read_text(encoding="utf-8") for path in STYLES)
LIGHT, DARK, PRINT = (
    {name: value.strip() for name, value in re.findall(r"--([\w-]+):([^;]+);", block)}
    for block in re.findall(r":root \{([^}]*--paper[^}]*)\}", STYLE)
)
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK, PRINT], ids=["light", "dark", "print"])
SERIES = [f"s{i}" for i in range(10)]


def channels(colour: str) -> list[float]:
    if colour.startswith("#"):
        return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [int(part) / 255 for part in colour.split()]


def luminance(rgb: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(channels(a)), luminance(channels(b))), reverse=True)
    return (high + 0.05) / (low + 0.05)


@THEMES
@pytest.mark.parametrize("ground", ["paper", "panel"])
@pytest.mark.parametrize("ink", ["ink", "muted", "link", "good", "bad", "open"])
def test_text_can_be_read(theme, ink, ground):
    assert contrast(theme[ink], theme[ground]) >= 4.5


@THEMES
@pytest.mark.parametrize("tint", ["right-tint", "wrong-tint"])
def test_text_can_be_read_on_the_strongest_tint(theme, tint):
    assert contrast(theme["ink"], theme[tint]) >= 4.5


@THEMES
@pytest.mark.parametrize("series", [*SERIES, "heat"])
def test_marks_can_be_seen(theme, series):
    assert contrast(theme[series], theme["paper"]) >= 3


def seen_without(kind: str, rgb: list[float]) -> list[float]:
    """A colour as people without one kind of cone see it (Viénot et al. 1999, linear RGB)."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    if kind == "protan":
        return [0.11238 * r + 0.88762 * g, 0.11238 * r + 0.88762 * g, 0.00401 * r - 0.00401 * g + b]
    return [0.29275 * r + 0.70725 * g, 0.29275 * r + 0.70725 * g, -0.02234 * r + 0.02234 * g + b]


def dashes(series: str) -> str:
    match = re.search(rf"svg \.line\.{series} \{{ stroke-dasharray: ([^;]+);", STYLE)
    return match.group(1) if match else ""


@THEMES
@pytest.mark.parametrize("kind", ["protan", "deutan"])
@pytest.mark.parametrize(
    ("a", "b"), [("good", "bad"), ("s0", "s2"), ("s0", "s6"), ("s2", "s6"), ("s0", "s5")]
)
def test_pairs_that_must_be_told_apart_are(theme, kind, a, b):
    first_colour, other = (seen_without(kind, channels(theme[name])) for name in (a, b))
    assert max(abs(x - y) for x, y in zip(first_colour, other, strict=True)) > 0.06


def test_lines_differ_by_more_than_their_colour():
    styles = {series: dashes(series) for series in SERIES if series != "s6"}
    assert all(styles[a] != styles[b] for a, b in combinations(styles, 2))


def test_paper_is_light():
    assert all(
        PRINT[name] == LIGHT[name] for name in [*SERIES, "paper", "ink", "muted", "good", "bad"]
    )
    assert {*LIGHT} - {"sans", "mono"} == {*DARK}
