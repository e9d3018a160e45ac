"""What stands beside the page: JSON that any reader parses, a Markdown summary, and the same bytes
twice."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from html import unescape
from typing import Any

import pytest

from prooftune import recipe as recipes
from prooftune.report import abstention_section
from prooftune.report.build import render_page, write_report
from prooftune.report.format import interval, percent
from prooftune.report.markdown import escape_markdown
from prooftune.report.terminal import how_to_ship_another, label_errors_line
from prooftune.report.warnings import collect_warnings
from report.conftest import CASES, facts_of, page_of
from report.reading import read


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    """Studies of labels only."""
    return str(request.param)


def refuse(constant: str) -> None:
    raise ValueError(constant)


@pytest.mark.slow
def test_json_is_strict_and_holds_all_figures(case, tmp_path):
    facts = facts_of(case)
    write_report(facts, tmp_path)
    found = json.loads(
        (tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse
    )
    assert found["scores"]["variants"] == facts["scores"]["variants"]
    assert found["scores"]["comparisons"] == facts["scores"]["comparisons"]
    assert found["audit"] == facts["audit"] and found["environment"] == facts["environment"]


def test_json_keeps_not_a_number_out(tmp_path):
    facts = facts_of("usual")
    lora: Any = {
        **facts["variants"]["lora"],
        "forgetting": {"perplexity_before": float("nan"), "perplexity_after": 3.0},
    }
    changed: Any = {**facts, "variants": {**facts["variants"], "lora": lora}}
    write_report(changed, tmp_path)
    found = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert found["variants"]["lora"]["forgetting"]["perplexity_before"] is None
    assert (
        read((tmp_path / "report.html").read_text()).by_id("forgetting-table").text.count("–") == 3
    )


def test_json_leaves_out_the_texts_of_changed_examples(folder):
    changed = json.loads((folder / "report.json").read_text())["scores"]["changed"]
    assert (
        changed["fixed"]["examples"]
        and changed["fixed"]["count"] == facts_of("usual")["scores"]["changed"]["fixed"]["count"]
    )
    assert all(
        "text" not in e and e["id"]
        for side in ("fixed", "broken")
        for e in changed[side]["examples"]
    )


def test_equal_facts_give_equal_bytes(folder, tmp_path):
    write_report(facts_of("usual"), tmp_path)
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, split at bars that are not escaped."""
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


@pytest.mark.slow
def test_markdown_tables_are_square_and_complete(case, tmp_path):
    facts = facts_of(case)
    write_report(facts, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    tables = markdown_tables(text)
    scores = facts["scores"]
    tried = any(told.get("prompts_tried") for told in facts["variants"].values())
    optional = [
        bool(scores["comparisons"]),
        tried,
        bool(scores.get("costs")),
        abstention_section.abstention_table(scores) is not None,
    ]
    assert len(tables) == 2 + sum(optional)
    by_label = next(table for table in tables if "precision" in "".join(table[0]))
    assert [row[0].strip() for row in by_label[2:]] == [
        escape_markdown(label) for label in scores["labels"]
    ]
    for table in tables:
        assert len({len(row) for row in table}) == 1
        assert set("".join(table[1])) <= set("-:")
    assert {row[0].strip() for row in tables[0][2:]} == {
        escape_markdown(name) for name in scores["variants"]
    }
    if scores["comparisons"]:
        assert len(tables[1]) - 2 == len(scores["comparisons"])
    assert f"seed {scores['seed']}" in text and f"{scores['n']:,} test examples" in text
    assert text.count("# ") >= 2 and "<script" not in text


def test_markdown_figures_carry_their_intervals(folder):
    variants, differences, *_ = markdown_tables((folder / "report.md").read_text())
    for row in variants[2:]:
        assert all("(" in cell or cell.strip() == "–" for cell in row[1:6]), row
    assert all("(" in cell for row in differences[2:] for cell in row[1:3])


def test_the_table_in_the_terminal_says_accuracy_with_interval(capsys):
    from prooftune.report.terminal import print_variants

    scores = facts_of("usual")["scores"]
    print_variants(scores)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "500 test examples, 95% intervals, seed 0" in lines
    lora = next(i for i, line in enumerate(lines) if line.startswith("lora"))
    accuracy = scores["variants"]["lora"]["metrics"]["accuracy"]
    assert f"{percent(accuracy['value'])} ({interval(accuracy)})" in lines[lora]
    assert lora < next(i for i, line in enumerate(lines) if line.startswith("majority"))


def test_precision_and_recall_are_printed_and_in_the_summary(folder):
    from prooftune.report.terminal import precision_and_recall

    scores = facts_of("usual")["scores"]
    metrics = scores["variants"]["lora"]["metrics"]
    line = precision_and_recall(scores)
    assert line.startswith("lora: macro precision ")
    for key in ("macro_precision", "macro_recall"):
        assert f"{percent(metrics[key]['value'])} ({interval(metrics[key])})" in line
    first = scores["variants"]["lora"]["per_class"][0]
    row = next(
        line
        for line in (folder / "report.md").read_text().split("## Labels")[1].splitlines()
        if line.startswith(f"| {first['label']} |")
    )
    assert percent(first["precision"]["value"]) in row and percent(first["recall"]["value"]) in row


def test_markdown_has_the_verdict_and_the_caveats(folder):
    text = (folder / "report.md").read_text()
    verdict = facts_of("usual")["scores"]["verdict"]
    said = unescape(text.replace("\\", ""))
    assert verdict["headline"] in said and verdict["sentence"] in said
    assert "3 rows without a label were dropped." in said
    assert "5.0%) are outside the label set" in said


def test_scores_alone_make_a_page():
    facts: Any = {"name": "bare", "scores": facts_of("usual")["scores"]}
    shown = read(render_page(facts))
    sections = [e.attributes["id"] for e in shown.all("section")]
    assert "data" not in sections and "cost" not in sections and sections[-1] == "reproduction"


def test_an_audit_without_token_lengths_makes_a_page():
    facts: Any = {**facts_of("usual")}
    facts["audit"] = {
        "findings": [],
        "balance": {},
        "lengths": {},
        "truncation": {},
        "rows": {"train": 5, "test": 2},
    }
    facts["notes"] = []
    text = read(render_page(facts)).by_id("data").text
    assert "The audit found no problems." in text and "5 train, 2 test" in text


def test_validation_rows_without_any_label_make_a_page():
    facts: Any = deepcopy(facts_of("usual"))
    balance = facts["audit"]["balance"]
    balance["validation"] = dict.fromkeys(balance["train"], 0)
    assert read(render_page(facts)).by_id("data").text


def test_estimates_stand_beside_what_was_measured():
    facts: Any = {
        **facts_of("usual"),
        "estimates": {"lora": {"seconds": 650.0, "memory_bytes": 2.5e9}},
    }
    assert "10 min 50 s 2.5 GB" in read(render_page(facts)).by_id("cost-table").text


def test_variants_below_the_commonest_label_are_named():
    facts = deepcopy(facts_of("usual"))
    facts["scores"]["variants"]["zero-shot"]["metrics"]["accuracy"] = {
        "value": 0.1,
        "low": 0.08,
        "high": 0.13,
    }
    majority = facts["scores"]["variants"]["majority"]["metrics"]["accuracy"]["value"]
    sentence = (
        f"zero-shot: worse than always predicting the most frequent label, which is right on "
        f"{majority:.1%}; beating it means little."
    )
    assert sentence in collect_warnings(facts)
    assert sentence not in collect_warnings(facts_of("usual"))


def test_a_variant_that_predicts_little_but_one_label_is_named():
    scores = deepcopy(facts_of("usual")["scores"])
    variant = scores["variants"]["lora"]
    first, *others = variant["per_class"]
    for most, reported in ((int(0.95 * variant["n"]), True), (int(0.9 * variant["n"]), False)):
        first["predicted"] = most
        for row in others:
            row["predicted"] = 0
        others[0]["predicted"] = variant["n"] - most
        facts: Any = {**facts_of("usual"), "scores": scores}
        warned = collect_warnings(facts)
        sentence = (
            f"lora: predicts '{first['label']}' for {most:,} of {variant['n']:,} examples, of "
            f"which {first['support']:,} have this label: it hardly discriminates."
        )
        assert (sentence in warned) == reported


@pytest.mark.parametrize(
    ("losses", "reported"),
    [
        ([1.2, 0.7, 0.62], True),
        ([0.7, 1.2, 0.68], False),  # about the lowest one before
        ([0.7, 0.6, 0.65], False),  # rising
        ([0.6], False),
    ],
)
def test_a_short_training_that_was_still_learning_is_named(losses, reported):
    facts = deepcopy(facts_of("usual"))
    training = facts["variants"]["lora"]["training"]
    training["epochs"] = 1.0
    training["log_history"] = [
        {"step": 5 * i, "eval_loss": loss} for i, loss in enumerate(losses, 1)
    ]
    warned = [w for w in collect_warnings(facts) if "try twice as many" in w]
    assert bool(warned) == reported
    if reported:
        assert "only 15 steps" in warned[0] and "0.7 before, 0.62 at" in warned[0]
        override = warned[0].rpartition("--set ")[2]
        values = {"name": "a", "data": {"train": "a.csv"}, "variants": {"lora": {"kind": "tuned"}}}
        recipe = recipes.parse(values, overrides=[override])
        assert recipe.variants["lora"].training["num_train_epochs"] == 2
        training["arguments"] = {"max_steps": 15}
        assert "training.max_steps=30" in next(
            w for w in collect_warnings(facts) if "try twice as many" in w
        )
        # A long training ends with a small step of its own accord.
        training["log_history"][-1]["step"] = 100
        assert not [w for w in collect_warnings(facts) if "try twice as many" in w]


def test_markdown_escapes_tags_and_no_relations():
    assert escape_markdown("p < 0.001, <b>, a<b, </i> & <!-- c") == (
        "p < 0.001, &lt;b>, a&lt;b, &lt;/i> &amp; &lt;!-- c"
    )


def test_the_terminal_says_where_doubtful_labels_are():
    scores: Any = {"label_errors": None}
    assert label_errors_line(scores) == ""
    counts = {"train": 7, "validation": 0, "test": 1_200}
    scores["label_errors"] = {
        "splits": {name: {"flagged": count} for name, count in counts.items()},
        "file": "label_errors.csv",
    }
    assert label_errors_line(scores) == (
        "Rows with a doubtful label: 7 of train and 1,200 of test; label_errors.csv in the run "
        "folder lists them."
    )
    scores["label_errors"]["splits"] = {"train": {"flagged": 0}}
    assert label_errors_line(scores) == ""


def test_what_variants_share_is_cautioned_once():
    heading = page_of("usual").by_id("warnings")
    box = next(a for a in page_of("usual").all("aside") if heading in a.children)
    assert [li.text for li in box.all("li") if "truncated" in li.text] == [
        "tfidf, zero-shot, few-shot, prompted, lora: 10 of 500 inputs (2.0%) were truncated to the "
        "length limit."
    ]


def test_long_names_are_not_broken_in_the_terminal(capsys, monkeypatch):
    from prooftune.report.terminal import print_variants

    monkeypatch.setenv("COLUMNS", "80")
    scores = deepcopy(facts_of("usual")["scores"])
    name = "tuned-with-retrieval"
    scores["variants"][name] = scores["variants"].pop("lora")
    print_variants(scores)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    accuracy = scores["variants"][name]["metrics"]["accuracy"]
    [row] = [line for line in lines if name in line]
    assert f"{percent(accuracy['value'])} ({interval(accuracy)})" in row


def test_wide_tables_break_before_brackets(capsys, monkeypatch):
    from prooftune.report.document import Document, DocumentTable, print_document

    monkeypatch.setenv("COLUMNS", "80")
    headings = ["weights", "ROUGE-L", "change", "p (Holm)", "same answers", "memory", "rows/s"]
    row = ["full precision", "31.0% (19.5–52.1)", "−0.4 (−37.2 to +28.5)", "1.00", "30.0%"]
    row += ["170 MB (−38%)", "0.51 (0.20×)"]
    print_document(Document("t", "h", "v.", [DocumentTable("q", headings, [row])]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for part in ("31.0%", "(19.5–52.1)", "(−37.2 to +28.5)", "170 MB", "(−38%)", "(0.20×)"):
        assert part in out
    monkeypatch.setenv("COLUMNS", "200")
    print_document(Document("t", "h", "v.", [DocumentTable("q", headings, [row])]))
    assert "31.0% (19.5–52.1)" in capsys.readouterr().out


def test_where_no_threshold_is_guaranteed_one_sentence_says_why():
    scores = deepcopy(facts_of("usual")["scores"])
    assert abstention_section.abstention_note(scores) == ""
    scores["validation_n"] = 9
    known = [v for v in scores["variants"].values() if v["abstention"] and v["kind"] != "majority"]
    for variant in known:
        variant["abstention"] |= {"reachable": False, "target": 0.955, "needed_rows": 66}
    assert abstention_section.abstention_table(scores) is None
    assert abstention_section.abstention_note(scores) == (
        "9 validation examples are too few to guarantee a threshold above which 95.5% of the "
        "answers are correct; about 66 would be needed."
    )
    known[0]["abstention"]["needed_rows"] = 500
    known[1]["abstention"]["needed_rows"] = None
    assert "about 66 would be needed for" in abstention_section.abstention_note(scores)
    for variant in known:
        variant["abstention"]["needed_rows"] = None
    assert abstention_section.abstention_note(scores) == (
        "On the 9 validation examples there is no threshold above which 95.5% of the answers are "
        "correct."
    )
    known[0]["abstention"]["grouped"] = known[1]["abstention"]["grouped"] = True
    for variant in known:
        variant["abstention"]["grouped"] = True
    assert "too few groups" in abstention_section.abstention_note(scores)
    page = read(render_page(facts_of("usual") | {"scores": scores}))
    assert "too few groups" in page.by_id("abstention").text
    assert not [e for e in page.all("table") if e.attributes.get("id") == "abstention-table"]


def test_a_temperature_that_made_test_rows_worse_is_reported():
    scores = deepcopy(facts_of("usual")["scores"])
    name = next(n for n, v in scores["variants"].items() if v.get("calibration"))
    losses = scores["variants"][name]["calibration"]["log_loss"]
    for after, reported in ((0.387, True), (0.092, False)):
        losses["before"]["value"], losses["after"]["value"] = 0.083, after
        found = [w for w in collect_warnings(facts_of("usual") | {"scores": scores}) if name in w]
        assert any("log-loss 0.083 before, 0.387 after" in w for w in found) == reported


def test_the_calibration_section_says_why_a_temperature_is_1():
    scores = deepcopy(facts_of("usual")["scores"])
    name = next(n for n, v in scores["variants"].items() if v.get("calibration"))
    why = "with fewer than 50 of them, or where the variant labels all of them correctly"
    assert why not in read(render_page(facts_of("usual"))).by_id("calibration").text
    scores["variants"][name]["temperature"] = 1.0
    page = read(render_page(facts_of("usual") | {"scores": scores}))
    assert why in page.by_id("calibration").text


def test_a_study_says_how_to_ship_another_variant():
    scores = deepcopy(facts_of("usual")["scores"])
    verdict = scores["verdict"]
    tuned = verdict["best_tuned"]
    for name, variant in scores["variants"].items():
        variant["validation_quality"] = 0.8 if name == tuned else 0.7
    assert how_to_ship_another(scores, tuned) == ""
    rival = verdict["against"][0]["variant"]
    scores["variants"][rival]["validation_quality"] = 0.853
    assert how_to_ship_another(scores, tuned) == (
        f"On validation rows {rival} is better than {tuned} (85.3% against 80.0%). --set "
        "bundle.variant=best ships the variant that is best there, of any kind."
    )
    # What a bundle cannot serve is no advice.
    scores["variants"][rival]["kind"] = "endpoint"
    assert how_to_ship_another(scores, tuned) == ""
    verdict["against"][0]["outcome"] = "loses"
    assert how_to_ship_another(scores, tuned) == (
        f"{rival} did better than {tuned} on test rows. --set bundle.variant=best "
        "ships the variant that is best on validation rows, of any kind."
    )
    assert how_to_ship_another(scores, rival) == ""
    assert how_to_ship_another(scores, None).startswith("No bundle, since no variant is tuned")
    for variant in scores["variants"].values():
        variant["kind"] = "endpoint"
    assert how_to_ship_another(scores, None) == "No bundle: it cannot serve any of these variants."
