"""The page as a document: self-contained, escaped, accessible, complete."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from report.conftest import facts_of, html_of, page_of
from report.reading import Element
from report.studies import HOSTILE

SECTIONS = [
    "variants",
    "differences",
    "labels",
    "confusion",
    "calibration",
    "abstention",
    "changed",
    "training",
    "forgetting",
    "prompts",
    "data",
    "cost",
    "reproduction",
]


@pytest.mark.slow
def test_nothing_is_loaded_from_anywhere(document, html):
    for element in document.all():
        assert element.tag not in ("script", "iframe", "img", "object", "embed", "base", "form"), (
            element.tag
        )
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert value.startswith(("#", "data:")), (element.tag, name, value)
            assert not re.search(r"https?://|^//", value), (element.tag, name, value)
    style = next(document.all("style")).text
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_texts_from_data_are_shown_and_never_acted_on():
    html, page = html_of("hostile"), page_of("hostile")
    assert "<script" not in html and "<img" not in html
    tags = {e.tag for e in page.all()}
    assert not tags & {"script", "img", "i"}
    # The only <b> are the page's own: the study's name and the names over matrices.
    assert {e.text for e in page.all("b")} == {
        "<i>study</i>",
        *facts_of("hostile")["scores"]["variants"],
    }
    shown = " ".join(HOSTILE.split())
    assert shown in page.by_id("changed").text
    assert any(shown in pre.text for pre in page.by_id("prompts").all("pre"))
    assert "<b>bold</b>" in page.by_id("label-table").text
    assert "<i>study</i>" in next(page.all("title")).text


def test_a_hostile_variant_description_and_finding_are_escaped():
    from prooftune.report.build import render_page
    from report.reading import read

    facts: Any = {**facts_of("usual")}
    facts["variants"] = {"lora": {**facts["variants"]["lora"], "description": HOSTILE}}
    facts["audit"] = {
        **facts["audit"],
        "findings": [{"code": HOSTILE, "severity": "error", "message": HOSTILE, "rows": [HOSTILE]}],
    }
    facts["recipe"] = facts["created"] = HOSTILE
    facts["environment"] = {"cpu": HOSTILE, HOSTILE: "1"}
    shown = read(render_page(facts))
    assert not {e.tag for e in shown.all()} & {"script", "img"}


@pytest.mark.slow
def test_one_first_heading_with_the_verdict_and_no_level_skipped(document, facts):
    headings = list(document.all("h1", "h2", "h3", "h4", "h5", "h6"))
    assert [e.text for e in headings if e.tag == "h1"] == [facts["scores"]["verdict"]["headline"]]
    assert headings[0].tag == "h1"
    levels = [int(e.tag[1]) for e in headings]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert all(e.text for e in headings)


@pytest.mark.slow
def test_the_verdict_comes_before_everything_else(document, facts):
    texts = [e.text for e in document.all("p") if "lede" in e.attributes.get("class", "")]
    assert texts == [" ".join(facts["scores"]["verdict"]["sentence"].split())]
    main = next(document.all("main"))
    assert isinstance(main.children[1], Element) and main.children[1].attributes["id"] == "verdict"


@pytest.mark.slow
def test_ids_are_unique_and_links_lead_somewhere(document):
    ids = [e.attributes["id"] for e in document.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in document.all():
        if element.tag == "a":
            assert element.attributes["href"].removeprefix("#") in ids
        if "aria-labelledby" in element.attributes:
            assert element.attributes["aria-labelledby"] in ids


def test_tables_name_their_headings_and_scroll_in_their_own_box(document):
    tables = list(document.all("table"))
    assert tables
    inside = [t for box in document.of_class("scroll") for t in box.all("table")]
    assert len(inside) == len(tables)
    for table in tables:
        assert all(th.attributes.get("scope") in ("col", "row") for th in table.all("th"))
        assert list(table.all("thead")) and list(table.all("tbody"))
    for box in document.of_class("scroll"):
        assert box.attributes["role"] == "region" and box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]


def test_every_picture_has_words_or_is_hidden_as_decoration(document):
    for svg in document.all("svg"):
        if svg.attributes.get("aria-hidden") == "true":
            assert "swatch" in svg.attributes["class"]
        else:
            assert svg.attributes["role"] == "img" and len(svg.attributes["aria-label"]) > 8


def test_nothing_is_drawn_outside_its_picture(document):
    for svg in document.all("svg"):
        _, _, width, height = map(float, svg.attributes["viewbox"].split())
        for e in svg.all():
            for name, value in e.attributes.items():
                limit = {
                    "x": width,
                    "x1": width,
                    "x2": width,
                    "cx": width,
                    "y": height,
                    "y1": height,
                    "y2": height,
                    "cy": height,
                }.get(name)
                if limit is not None:
                    assert -0.01 <= float(value) <= limit + 0.01, (
                        svg.attributes.get("aria-label"),
                        e.tag,
                        name,
                        value,
                    )
            if e.tag == "path":
                pairs = [
                    tuple(map(float, p.split()))
                    for p in e.attributes["d"].removeprefix("M").split("L")
                ]
                assert all(0 <= x <= width and 0 <= y <= height for x, y in pairs)


def test_page_is_ready_for_phone_dark_mode_and_paper(html):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "@media (prefers-color-scheme: dark)" in html and "@media print" in html


def test_a_whole_study_has_every_section(usual):
    assert [e.attributes["id"] for e in usual.all("section")] == SECTIONS
    assert [a.attributes["href"] for a in next(usual.all("nav")).all("a")] == [
        f"#{name}" for name in SECTIONS
    ]


@pytest.mark.parametrize(
    ("case", "missing"),
    [
        ("not tuned", {"changed", "training", "forgetting"}),
        ("one variant", {"differences", "changed"}),
        ("no validation", set()),
    ],
)
def test_sections_without_facts_are_left_out(case, missing):
    assert {*SECTIONS} - {e.attributes["id"] for e in page_of(case).all("section")} == missing


def test_without_validation_rows_no_temperature_is_claimed():
    text = page_of("no validation").by_id("calibration").text
    assert (
        "no validation examples to fit a temperature on" in text
        and "after temperature scaling" not in text
    )
    assert "0 validation" not in text
    assert "Abstention threshold" not in page_of("no validation").by_id("abstention").text


def test_outputs_that_are_no_label_are_shown_as_such():
    page = page_of("generation")
    invalid = facts_of("generation")["scores"]["variants"]["prompted"]["invalid"]
    assert f"{invalid} of 300 outputs" in next(page.all("aside")).text
    assert "no label: “I think so”" in page.by_id("changed").text
    assert "(invalid)" in page.by_id("confusion").text


def test_many_labels_show_mistakes_instead_of_a_matrix():
    section = page_of("many labels").by_id("confusion")
    assert not section.of_class("matrix") and "Blue cells" not in section.text
    assert len(section.of_class("mistakes")) == len(facts_of("many labels")["scores"]["variants"])
