"""Figures as people read them, and the small parts that figures are drawn with."""

from __future__ import annotations

import itertools

import pytest
from markupsafe import Markup

from prooftune.report import format as f
from prooftune.report.cell_figures import whisker_axis
from prooftune.report.figures import wrap_label
from prooftune.report.svg import Plot, element, ticks
from prooftune.report.view import colour_classes


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (f.percent(0.9124), "91.2%"),
        (f.percent(None), "–"),
        (f.percent(1.0, 0), "100%"),
        (f.points(0.034), "+3.4"),
        (f.points(-0.0126), "−1.3"),
        (f.points(-0.0001), "0.0"),
        (f.points(None), "–"),
        (f.unsigned_points(0.034), "3.4"),
        (f.unsigned_points(None), "–"),
        (f.decimal(-0.1234), "−0.123"),
        (f.decimal(None), "–"),
        (f.significant(0.00001234), "1.23e−5"),
        (f.significant(12.345), "12.3"),
        (f.significant(None), "–"),
        (f.count(12345), "12,345"),
        (f.count(None), "–"),
        (f.p_value(0.0000004), "< 0.001"),
        (f.p_value(0.0123), "0.012"),
        (f.p_value(0.5), "0.50"),
        (f.p_value(None), "–"),
        (f.p_relation(0.0000004), "< 0.001"),
        (f.p_relation(0.02), "= 0.02"),
        (
            f.nonbreaking_p_values("a (by 3 points, p < 0.001) and b (p = 0.2)"),
            "a (by 3 points, p\u00a0<\u00a00.001) and b (p\u00a0=\u00a00.2)",
        ),
        (f.interval({"low": 0.884, "high": 0.936}), "88.4–93.6"),
        (f.interval({"low": -0.1, "high": 0.2}, 1, 2), "−0.10 to 0.20"),
        (f.interval(None), "–"),
        (f.interval({"low": None, "high": None}), "–"),
        (f.signed_interval({"low": -0.012, "high": 0.034}), "−1.2 to +3.4"),
        (f.signed_interval(None), "–"),
        (f.duration(0), "0 s"),
        (f.duration(0.001), "< 0.01 s"),
        (f.duration(0.42), "0.42 s"),
        (f.duration(59.7), "1 min 0 s"),
        (f.duration(104), "1 min 44 s"),
        (f.duration(7500), "2 h 5 min"),
        (f.duration(None), "–"),
        (f.milliseconds(0.0123), "12 ms"),
        (f.milliseconds(0.00012), "0.12 ms"),
        (f.milliseconds(2.5), "2.5 s"),
        (f.milliseconds(None), "–"),
        (f.byte_size(1_900_000_000), "1.9 GB"),
        (f.byte_size(312_000_000), "312 MB"),
        (f.byte_size(512), "512 B"),
        (f.byte_size(None), "–"),
        (f.timestamp("2026-08-02T09:05:00+00:00"), "2 August 2026, 09:05 UTC"),
        (f.timestamp("yesterday"), "yesterday"),
    ],
)
def test_formats(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.31, 0.97), (-0.02, 0.4), (0, 0.0003), (0, 1234), (0.5, 0.5)]
)
def test_ticks_cover_the_range_with_round_steps(low, high):
    marks = ticks(low, high)
    assert marks[0] <= low and marks[-1] >= high
    steps = {round(b - a, 10) for a, b in itertools.pairwise(marks)}
    assert len(steps) <= 1


def test_a_range_without_width_is_drawn_at_its_end():
    plot = Plot(100, 100, (0.5, 0.5), (0, 1))
    assert plot.x(0.5) == plot.left


def test_elements_escape_what_they_are_given():
    assert element("text", '<a href="x">', class_='"quoted"') == Markup(
        '<text class="&#34;quoted&#34;">&lt;a href=&#34;x&#34;&gt;</text>'
    )


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("Sports", ["Sports"]),
        ("", [""]),
        ("Declined transfer to another bank", ["Declined transfer to", "another bank"]),
        ("x" * 50, ["x" * 20, "x" * 19 + "…"]),
    ],
)
def test_labels_in_at_most_two_lines(label, lines):
    assert wrap_label(label) == lines
    assert all(len(line) <= 20 for line in lines)


def test_small_differences_keep_their_decimals_on_the_axis():
    assert "+0.5" in whisker_axis((-0.005, 0.01), signs=True)


def test_an_axis_of_many_ticks_names_every_second_and_zero():
    axis = whisker_axis((-0.2, 0.2), signs=True)
    assert [label in axis for label in (">−20<", ">−10<", ">0<", ">+10<", ">+20<")] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_colours_do_not_depend_on_which_other_variants_there_are():
    few = colour_classes({"a": "zero-shot", "b": "tuned"})
    many = colour_classes(
        {"m": "majority", "t": "tfidf", "a": "zero-shot", "b": "tuned", "c": "tuned"}
    )
    assert few == {"a": "s2", "b": "s0"}
    assert (many["a"], many["b"], many["c"]) == ("s2", "s0", "s1")
    assert len(set(many.values())) == len(many)
    twelve = colour_classes({f"v{i}": "tuned" for i in range(12)})
    assert set(twelve.values()) <= {"s0", "s1", "s7", "s8", "s9"}
