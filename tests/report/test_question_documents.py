"""What stands beside the page of a study of questions: JSON, Markdown, the table in the terminal;
and older scores."""

from __future__ import annotations

import copy
import json

import pytest

from prooftune.report.build import write_report
from prooftune.report.format import interval, percent
from prooftune.report.markdown import escape_markdown
from report.conftest import QUESTIONS, facts_of, page_of


@pytest.fixture(params=QUESTIONS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_equal_facts_give_equal_bytes_and_strict_json(case, tmp_path):
    facts = facts_of(case)
    for name in ("one", "two"):
        write_report(copy.deepcopy(facts), tmp_path / name)
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    result = json.loads((tmp_path / "one" / "report.json").read_text(), parse_constant=pytest.fail)
    assert result["scores"]["variants"] == facts["scores"]["variants"]


def test_markdown_has_the_same_tables(case, tmp_path):
    facts = facts_of(case)
    write_report(facts, tmp_path)
    text, scores = (tmp_path / "report.md").read_text(encoding="utf-8"), facts["scores"]
    assert "<script" not in text
    for name, variant in scores["variants"].items():
        figure = variant["metrics"][scores["primary"]]
        control = " (control)" if variant["role"] == "control" else ""
        assert (
            f"| {escape_markdown(name)}{control} | {percent(figure['value'])} "
            f"({interval(figure)}) |" in text
        )
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert [t for t in titles if t in ("Answers", "Retrieval", "Citations", "Judge")] == [
        next(section.all("h2")).text
        for section in page_of(case).all("section")
        if section.attributes["id"] in ("answers", "retrieval", "citations", "judge")
    ]
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_terminal(capsys, case):
    from prooftune.report.terminal import print_variants

    scores = facts_of(case)["scores"]
    print_variants(scores)
    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    groups = scores["groups"]["count"]
    assert f"{scores['n']} test questions in {groups} groups, 95% intervals, seed 0" in lines
    assert max(map(len, printed.splitlines())) <= 80
    for name, variant in scores["variants"].items():
        figure = variant["metrics"][scores["primary"]]
        control = " (control)" if variant["role"] == "control" else ""
        assert any(
            line.startswith(f"{name}{control} {percent(figure['value'])} ({interval(figure)})")
            for line in lines
        ), name
