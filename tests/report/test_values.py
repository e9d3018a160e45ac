"""Every figure on the page is the one in the scores, with its interval."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from prooftune.evaluation.score_types import Figure, RiskPoint
from prooftune.recipe.metrics import COST_METRICS, ORDINAL_METRICS
from prooftune.report.build import render_page
from prooftune.report.figures import risk_coverage_curves
from prooftune.report.format import (
    byte_size,
    count,
    decimal,
    duration,
    interval,
    p_value,
    percent,
    points,
    signed_interval,
    significant,
)
from prooftune.report.task_display import TASKS
from report.conftest import CASES, facts_of
from report.reading import cells, read, table

MISSING = "–"
FURTHER = (*ORDINAL_METRICS, *COST_METRICS)  # of ordinal labels and of errors that have costs
METRICS = {k: m for k, m in TASKS["classification"].metrics.items() if k not in FURTHER}
"""All metrics of labels that are names."""
AS_NUMBERS = ("mcc", "log_loss", "brier", "ece")


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    """Studies of labels only."""
    return str(request.param)


def share(figure: Figure) -> str:
    return MISSING if figure["value"] is None else f"{percent(figure['value'])} {interval(figure)}"


def value(figure: Figure | None) -> str:
    return f"{decimal(figure['value'])} {interval(figure, 1, 3)}" if figure else MISSING


def by_first(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows[1:]}


def test_variants(document, facts):
    rows = table(document, "variants-table")[1:]
    variants = facts["scores"]["variants"]
    ranked = sorted(variants, key=lambda name: -variants[name]["metrics"]["accuracy"]["value"])
    for row, name in zip(rows, ranked, strict=True):
        v = variants[name]
        m = v["metrics"]
        assert row[0] == f"{name} {facts['variants'][name]['description']}"
        assert row[1] == share(m["accuracy"]) and row[3] == share(m["macro_f1"])
        assert row[4:7] == [value(m["mcc"]), value(m.get("log_loss")), value(m.get("ece"))]
        assert row[7:] == [count(v["invalid"]), count(v["truncated"])]


def test_all_metrics(document, facts):
    rows = table(document, "metrics-table")
    variants = facts["scores"]["variants"]
    shown = by_first(rows)
    for key, metric in METRICS.items():
        for name, cell in zip(rows[0][1:], shown[metric.title], strict=True):
            figure = variants[name]["metrics"].get(key)
            assert cell == (value(figure) if key in AS_NUMBERS else share(figure)), (name, key)
    assert {key for v in variants.values() for key in v["metrics"]} <= {*METRICS}, (
        "a metric is not shown"
    )


def test_differences(document, facts):
    comparisons = facts["scores"]["comparisons"]
    if not comparisons:
        pytest.skip("one variant has nothing to be compared with")
    for row, c in zip(table(document, "differences-table")[1:], comparisons, strict=True):
        assert row[0] == f"{c['a']} − {c['b']}"
        assert row[1] == f"{points(c['accuracy']['value'])} {signed_interval(c['accuracy'])}"
        assert row[3] == f"{points(c['macro_f1']['value'])} {signed_interval(c['macro_f1'])}"
        assert row[4] == f"{count(c['only_a'])} : {count(c['only_b'])}"
        assert row[5] == p_value(c["p_holm"])
        assert row[6] == f"{100 * c['minimum_detectable_difference']:.1f}"
        word = (
            "cannot be told apart"
            if not c["significant"]
            else "better"
            if c["accuracy"]["value"] > 0
            else "worse"
        )
        assert row[7].endswith(word)


def test_labels(document, facts):
    scores = facts["scores"]
    judged = scores["verdict"]["best_tuned"] or scores["verdict"]["winner"]
    for row, c in zip(
        table(document, "label-table")[1:], scores["variants"][judged]["per_class"], strict=True
    ):
        assert row == [
            c["label"],
            count(c["support"]),
            share(c["precision"]),
            share(c["recall"]),
            share(c["f1"]),
        ]
    if len(scores["variants"]) > 1:
        rows = table(document, "f1-table")
        for i, row in enumerate(rows[1:]):
            assert row[2:] == [
                share(scores["variants"][name]["per_class"][i]["f1"]) for name in rows[0][2:]
            ]


def test_the_figure_of_labels_says_the_same_as_the_table(document, facts):
    scores = facts["scores"]
    titles = [t.text for svg in document.by_id("labels").all("svg") for t in svg.all("title")]
    for title in titles:
        start, _, shown = title.rpartition(": F1 ")
        label, name = next(
            (c["label"], name)
            for name, v in scores["variants"].items()
            for c in v["per_class"]
            if start == f"{c['label']}, {name}"
        )
        figure = next(c["f1"] for c in scores["variants"][name]["per_class"] if c["label"] == label)
        assert shown == percent(figure["value"])
    assert bool(titles) == (len(scores["variants"]) > 1)


def test_confusion(document, facts):
    variants = facts["scores"]["variants"]
    for matrix in document.by_id("confusion").of_class("matrix"):
        name = next(matrix.all("b")).text
        confusion = variants[name]["confusion"]
        rows = cells(matrix)
        assert rows[0][0] == "true label" and rows[0][-1] == "n"
        for shown, column in zip(rows[0][1:-1], confusion["columns"], strict=True):
            assert shown == column or (shown.endswith("…") and column.startswith(shown[:-1]))
        for row, label, counts in zip(
            rows[1:], confusion["rows"], confusion["counts"], strict=True
        ):
            assert row[0] == label and row[-1] == count(sum(counts))
            assert [cell.split()[0] for cell in row[1:-1]] == [count(n) for n in counts]


def test_calibration(document, facts):
    variants = facts["scores"]["variants"]
    shown = by_first(table(document, "calibration-table"))
    assert {*shown} == {
        n for n, v in variants.items() if v["calibration"] and v["kind"] != "majority"
    }
    for name, row in shown.items():
        result, temperature = variants[name]["calibration"], variants[name]["temperature"]
        sides = ("before",) if temperature is None else ("before", "after")
        assert row[-2 * len(sides) :] == [
            value(result[figure][side]) for figure in ("ece", "log_loss") for side in sides
        ]
        if temperature is not None:
            assert row[0] == significant(temperature)


def test_risk_at_full_coverage_is_the_error(document, facts):
    for name, row in by_first(table(document, "risk-table")).items():
        variant = facts["scores"]["variants"][name]
        assert row[-2].split()[0] == percent(variant["risk_coverage"]["points"][-1]["risk"])
        assert row[-1] == decimal(variant["risk_coverage"]["aurc"])
        if not variant["invalid"]:
            assert row[-2].split()[0] == percent(1 - variant["metrics"]["accuracy"]["value"])


def test_abstention(usual):
    variants = facts_of("usual")["scores"]["variants"]
    for name, row in by_first(table(usual, "abstention-table")).items():
        a = variants[name]["abstention"]
        if a["reachable"]:
            assert row == [
                percent(a["threshold"]),
                count(a["answered"]),
                percent(a["coverage"]),
                share(a["accuracy"]),
            ]
        else:
            needed = f"about {count(a['needed_rows'])} validation examples would be needed"
            assert row[0] == (
                f"none: {needed}"
                if a["needed_rows"]
                else "none reaches the target on validation examples"
            )
            assert row[1:] == ["–"] * 3


def test_the_majority_class_has_no_say_in_being_sure():
    """It has probabilities, the shares of the labels, and they are the same for every example."""
    from prooftune.report.build import render_page
    from report.reading import read

    scores = facts_of("usual")["scores"]
    variants = scores["variants"]
    sure = {
        key: variants["zero-shot"][key]
        for key in ("calibration", "abstention", "risk_coverage", "temperature")
    }
    facts: Any = {
        "name": "s",
        "scores": {
            **scores,
            "variants": {**variants, "majority": {**variants["majority"], **sure}},
        },
    }
    shown = read(render_page(facts))
    for name in ("calibration-table", "risk-table", "abstention-table"):
        assert "majority" not in by_first(table(shown, name))
        assert "zero-shot" in by_first(table(shown, name))


def test_tiles(document, facts):
    verdict = facts["scores"]["verdict"]
    judged = verdict["best_tuned"] or verdict["winner"]
    first, *others = [e for e in next(document.all("dl")).children if not isinstance(e, str)]
    accuracy = facts["scores"]["variants"][judged]["metrics"]["accuracy"]
    assert percent(accuracy["value"]) in first.text and interval(accuracy) in first.text
    assert f"n = {count(facts['scores']['n'])}" in first.text
    for tile, against in zip(others, verdict["against"], strict=True):
        assert tile.text.startswith(
            f"against {against['variant']} {points(against['difference']['value'])}"
        )
        assert signed_interval(against["difference"]) in tile.text


@pytest.mark.parametrize(
    ("number", "classes"), [(5, "tiles"), (6, "tiles of-3"), (7, "tiles of-4"), (9, "tiles of-5")]
)
def test_tiles_are_in_rows_of_equal_length(number, classes):
    scores = deepcopy(facts_of("usual")["scores"])
    scores["verdict"]["against"] = scores["verdict"]["against"][:1] * (number - 1)
    page = read(render_page(facts_of("usual") | {"scores": scores}))
    assert next(page.all("dl")).attributes["class"] == classes


def test_the_label_of_the_target_is_above_the_curves():
    points: list[RiskPoint] = [{"coverage": 0.5, "risk": 0.2}, {"coverage": 1.0, "risk": 0.3}]
    figure = read(str(risk_coverage_curves([("a", "s0", points)], 0.9)))
    [label] = [e for e in figure.all("text") if "target accuracy 90.0%" in e.text]
    [curve] = figure.of_class("s0")
    highest = min(float(step.split()[1]) for step in curve.attributes["d"][1:].split("L"))
    assert float(label.attributes["y"]) < highest - 5
    without = read(str(risk_coverage_curves([("a", "s0", points)], None)))
    assert not [e for e in without.all("text") if "target" in e.text]


def test_changed_examples(usual):
    changed = facts_of("usual")["scores"]["changed"]
    section = usual.by_id("changed")
    headings = [h.text for h in section.all("h3")]
    assert headings == [
        f"From wrong to right: {changed['fixed']['count']}",
        f"From right to wrong: {changed['broken']['count']}",
    ]
    shown = [li.text for li in section.all("li")]
    examples = [e for side in ("fixed", "broken") for e in changed[side]["examples"]]
    for text, example in zip(shown, examples, strict=True):
        assert text.startswith(example["text"]) and text.endswith(example["id"])
        assert f"({percent(example['after']['probability'], 0)})" in text


def test_data(usual):
    audit = facts_of("usual")["audit"]
    rows = table(usual, "balance-table")
    for row in rows[1:-1]:
        for split, cell in zip(rows[0][2:], row[2:], strict=True):
            n = audit["balance"][split][row[0]]
            assert cell == f"{count(n)} {percent(n / sum(audit['balance'][split].values()))}"
    for split, row in by_first(table(usual, "lengths-table")).items():
        lengths, cut = audit["lengths"][split], audit["truncation"][split]
        assert row == [
            count(audit["rows"][split]),
            *(count(lengths[k]) for k in ("median", "p95", "max")),
            count(cut["limit"]),
            f"{cut['rows']} {percent(cut['share'])}",
        ]
    findings = [li.text for li in usual.by_id("data").of_class("findings")[0].all("li")]
    assert (
        findings[0].startswith("warning 18 training rows")
        and "All 18 rows train.csv:4, train.csv:6" in findings[0]
    )


def test_cost_and_forgetting(usual):
    details = facts_of("usual")["variants"]
    for name, row in by_first(table(usual, "cost-table")).items():
        cost = details[name]["cost"]
        assert row[:4] == [
            duration(cost.get("train_seconds")),
            count(cost.get("train_tokens")),
            duration(cost.get("score_seconds")),
            count(cost.get("score_tokens")),
        ]
        assert row[-1] == byte_size(cost.get("peak_memory_bytes"))
    assert table(usual, "forgetting-table")[1] == [
        "lora",
        "18.42",
        "23.90",
        "1.30",
        "1,804",
        "general_english.txt",
    ]


def test_prompts_tried_carry_intervals_and_the_first_best_is_chosen(usual):
    rows = cells(usual.by_id("prompts").of_class("tried")[0])
    assert [row[1] for row in rows[1:]][1] == "70.0% 60.4–78.1"
    assert [row[2:4] for row in rows[1:]] == [
        ["60", "60 50.0%"],
        ["80", "40 33.3%"],
        ["100", "20 16.7%"],
        ["120", "0 0.0%"],
    ]
    assert [row[-1] for row in rows[1:]] == ["", "selected", "", ""]


def test_captions_say_n_level_and_seed(document, facts):
    n = count(facts["scores"]["n"])
    for name in ("variants-table", "metrics-table", "calibration-table"):
        caption = next(document.by_id(name).all("caption")).text
        assert n in caption and "95%" in caption and "seed 0" in caption


def test_environment_seed_and_recipe(usual):
    section = usual.by_id("reproduction")
    facts = facts_of("usual")
    assert all(str(item) in section.text for item in facts["environment"].values())
    assert "c4" * 32 in section.text
    assert next(section.all("pre")).text == " ".join(facts["recipe"].split())
