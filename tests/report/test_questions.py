"""Studies of questions: every figure on the page is the one in the scores, and nothing is shown
that is not there."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from prooftune.evaluation.score_types import Figure
from prooftune.report import task_display
from prooftune.report.build import render_page
from prooftune.report.format import (
    count,
    decimal,
    interval,
    p_relation,
    p_value,
    percent,
    points,
    signed_interval,
)
from prooftune.report.markdown import render_markdown
from report.conftest import QUESTIONS, facts_of, page_of
from report.reading import Element, cells, read, table
from report.studies import HOSTILE

LABELS_ONLY = {"labels", "confusion", "calibration", "abstention"}
FORMS = {"bleu": (1, 1), "answer_words": (1, 1)}
BLANK = "–"


@pytest.fixture(params=QUESTIONS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def formatted(key: str, figure: Figure | None) -> str:
    """A figure as it must stand on the page, written here once more."""
    if not figure or figure["value"] is None:
        return BLANK
    scale, digits = FORMS.get(key, (100, 1))
    unit = "" if key in FORMS else "%"
    return f"{scale * figure['value']:.{digits}f}{unit} {interval(figure, scale, digits)}"


def sections(document: Element) -> list[str]:
    return [e.attributes["id"] for e in document.all("section")]


def by_name(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows[1:]}


def rebuilt(case: str, **changes: Any) -> Element:
    facts = copy.deepcopy(facts_of(case))
    for path, value in changes.items():
        *parents, last = path.split("__")
        result = facts["scores"]
        for part in parents:
            result = result[part]
        result[last] = value
    return read(render_page(facts))


def warnings_text(document: Element) -> str:
    return next(document.all("aside")).text


def test_variants_by_the_primary_metric_and_controls_last(document, facts):
    scores = facts["scores"]
    rows = table(document, "variants-table")
    keys = {
        "extractive-qa": ["f1", "exact", "rougeL", "meteor", "bleu"],
        "free-text-qa": ["rougeL", "f1", "meteor", "bleu", "answer_words"],
    }[scores["task"]]
    keys = list(dict.fromkeys([scores["primary"], *keys]))
    values, controls = [], []
    for row in rows[1:]:
        name, variant = next(
            (n, v) for n, v in scores["variants"].items() if row[0].split()[0] == n
        )
        assert [row[1], *row[3:]] == [formatted(key, variant["metrics"][key]) for key in keys], name
        controls.append(variant["role"] == "control")
        values.append((controls[-1], -variant["metrics"][scores["primary"]]["value"]))
        assert ("control: with" in row[0]) == controls[-1]
    assert len(values) == len(scores["variants"]) and values == sorted(values)
    assert f"{scores['primary_title']} of" in next(document.all("dl")).text


def test_all_metrics_and_all_their_differences(document, facts):
    scores = facts["scores"]
    rows = table(document, "metrics-table")
    shown_rows, every = by_name(rows), task_display.display_for(scores).metrics
    names = rows[0][1:]
    for key in {key for v in scores["variants"].values() for key in v["metrics"]}:
        figures = [scores["variants"][name]["metrics"][key] for name in names]
        if all(f["value"] is None for f in figures):
            assert every[key].title not in shown_rows
        else:
            assert shown_rows[every[key].title] == [formatted(key, f) for f in figures], key
    validated = [scores["variants"][name]["validation_quality"] for name in names]
    assert rows[-1][1:] == [percent(v) for v in validated]
    if scores["comparisons"]:
        for title, row in by_name(table(document, "all-differences-table")).items():
            key = next(k for k, metric in every.items() if metric.title == title)
            scale = FORMS.get(key, (100, 1))[0]
            assert [cell.split()[0] for cell in row] == [
                points(c[key]["value"] * scale / 100) for c in scores["comparisons"]
            ]


def test_differences_in_the_primary_metric(document, facts):
    scores = facts["scores"]
    if not scores["comparisons"]:
        assert "differences" not in sections(document)
        return
    controls = {name for name, v in scores["variants"].items() if v["role"] == "control"}
    for row, c in zip(table(document, "differences-table")[1:], scores["comparisons"], strict=True):
        d = c[scores["primary"]]
        assert row[1] == f"{points(d['value'])} {signed_interval(d)}"
        by_rows = c["by_rows"]
        assert row[-2] == f"p {p_relation(by_rows['p'])} {signed_interval(by_rows)}"
        assert row[-5:-2] == [
            f"{c['only_a']} : {c['only_b']}",
            p_value(c["p_holm"]),
            f"{100 * c['minimum_detectable_difference']:.1f}",
        ]
        word = (
            "cannot be told apart"
            if not c["significant"]
            else "better"
            if d["value"] > 0
            else "worse"
        )
        control = bool({c["a"], c["b"]} & controls) and c["significant"]
        assert row[-1].endswith(f"{word} (control)" if control else word)
        assert ("▲" in row[-1] or "▼" in row[-1]) == (c["significant"] and not control)


def test_with_and_without_an_answer():
    scores = facts_of("squad")["scores"]
    rows = table(page_of("squad"), "strata-table")
    assert "(n = 84)" in rows[0][1] and "(n = 36)" in rows[0][3]
    for name, row in by_name(rows).items():
        metrics = scores["variants"][name]["metrics"]
        assert row == [
            formatted(key, metrics[key])
            for key in ("has_answer_exact", "has_answer_f1", "no_answer_exact")
        ]
    for case in ("policy", "all answerable"):
        assert all(e.attributes.get("id") != "strata-table" for e in page_of(case).all())


def test_outputs(document, facts):
    scores = facts["scores"]
    keys = ["invalid"] * (scores["task"] == "extractive-qa") + [
        "abstained",
        "windowed",
        "truncated",
    ]
    for name, row in by_name(table(document, "outputs-table")).items():
        v = scores["variants"][name]
        assert row == [
            *(f"{v[key]} {percent(v[key] / v['n'])}" for key in keys),
            formatted("answer_words", v["metrics"]["answer_words"]),
            count(v["generated_tokens"]),
            f"{v['generated_tokens'] / v['n']:.1f}",
        ]


def test_threshold_table_and_figure_say_what_was_chosen_and_what_it_gives():
    page_, variants = page_of("squad"), facts_of("squad")["scores"]["variants"]
    rows = by_name(table(page_, "threshold-table"))
    assert {*rows} == {"zero-shot", "best-prompt", "tuned"}
    drawn = {
        svg.attributes["aria-label"]: [t.text for t in svg.all("title")]
        for svg in page_.by_id("answers").all("svg")
        if "aria-label" in svg.attributes
    }
    for name, row in rows.items():
        v, t = variants[name], variants[name]["no_answer"]
        assert row == [
            f"{t['value']:+.2f}".replace("-", "−"),
            "60",
            formatted("f1", v["metrics"]["f1"]),
            percent(t["f1_without"]),
            formatted("exact", v["metrics"]["exact"]),
            percent(t["exact_without"]),
            percent(t["best_f1_on_test"]),
            formatted("auroc", t["auroc"]),
        ]
        best, chosen = drawn[f"F1 of {name} against its no-answer threshold"]
        assert best.endswith(f"F1 {percent(max(p['f1'] for p in t['curve']))}") and best.startswith(
            "best on test"
        )
        assert chosen.endswith(f"F1 {percent(v['metrics']['f1']['value'])}")


def test_the_chosen_threshold_is_drawn_on_its_curve():
    variant = facts_of("squad")["scores"]["variants"]["tuned"]
    svg = next(
        s
        for s in page_of("squad").all("svg")
        if s.attributes.get("aria-label", "").startswith("F1 of tuned")
    )
    steps = [
        tuple(map(float, p.split()))
        for p in next(svg.all("path")).attributes["d"].removeprefix("M").split("L")
    ]
    dot = [c for c in svg.all("circle") if "hollow" not in c.attributes["class"]][-1]
    x, y = float(dot.attributes["cx"]), float(dot.attributes["cy"])
    at = max((px, i) for i, (px, _) in enumerate(steps) if px <= x)[1]
    assert len(variant["no_answer"]["curve"]) > 100, "a short curve would hide a wrong place"
    # F1 stays until the next question's score is passed.
    assert steps[at][1] == steps[at + 1][1] == pytest.approx(y, abs=0.05)


def test_without_validation_questions_no_choice_is_claimed():
    text = page_of("all answerable").by_id("answers").text
    assert (
        "no validation questions to choose it on, so it is 0" in text
        and "chosen on validation" not in text
    )


def test_signatures_of_all_metrics_stand_once():
    for name in ("squad", "policy"):
        rows = table(page_of(name), "signatures-table")[1:]
        signatures = facts_of(name)["scores"]["variants"]["tuned"]["signatures"]
        assert {row[1] for row in rows} == {*signatures.values()}
        assert [row[0] for row in rows if row[1] == signatures["rouge1"]] == [
            "ROUGE-1, ROUGE-2, ROUGE-L"
        ]


def test_retrieval_and_citations():
    page_, scores = page_of("policy"), facts_of("policy")["scores"]
    rows = table(page_, "retrieval-table")
    assert rows[0] == ["variant", "questions", "recall@3", "recall@10", "MRR@10", "nDCG@10"]
    assert [*by_name(rows)] == ["tuned-retrieval", "base-retrieval"]
    assert rows[1][1:] == [
        "100",
        "61.0% 54.8–66.2",
        "80.0% 73.8–85.2",
        "50.0% 43.8–55.2",
        "57.0% 50.7–62.3",
    ]
    assert "20 others are excluded" in page_.by_id("retrieval").text
    cited = by_name(table(page_, "citations-table"))
    assert [*cited] == ["tuned-retrieval", "base-retrieval", "oracle", "random"]
    for name, row in cited.items():
        v = scores["variants"][name]
        assert row[0].split()[0] == percent(v["cited"] / v["n"]) and row[1] == count(
            v["unknown_citations"]
        )
        assert row[2:] == [
            formatted(key, v["citations"][key])
            for key in (
                "citation_precision",
                "citation_recall",
                "unsupported_rate",
                "unknown_citation_rate",
            )
        ]


def test_judge():
    page_, judge = page_of("policy"), facts_of("policy")["scores"]["judge"]
    rows = iter(table(page_, "judge-table")[1:])
    for name, entry in judge["variants"].items():
        for criterion, c in entry["criteria"].items():
            row = next(rows)
            assert row[:4] == [name, criterion, f"{c['mean']:.2f} {interval(c, 1, 2)}", str(c["n"])]
            assert (
                row[4].split()[0] == str(c["failed"])
                and row[5] == f"no score in the reply: {c['failed']}"
                and c["failed"]
            )
    pair, (row,) = judge["pairs"][0], table(page_, "preferences-table")[1:]
    assert row[:4] == [
        "random against base",
        *(str(pair[key]) for key in ("wins", "ties", "losses")),
    ]
    assert row[4] == f"{points(pair['net'])} {signed_interval(pair)}" and row[6].split()[
        0
    ] == percent(pair["consistent"])
    assert row[7:] == [
        f"{pair['first_place']} : {pair['second_place']}",
        f"{pair['failed']} {percent(pair['failure_rate'])}, "
        + interval({"low": pair["failure_low"], "high": pair["failure_high"]}),
        "timed out: 5",
    ]
    for row, (criterion, d) in zip(
        table(page_, "judge-differences-table")[1:],
        judge["differences"][0]["criteria"].items(),
        strict=True,
    ):
        assert row[1] == criterion and row[3:5] == [str(d["n"]), str(d["left_out"])]
        assert row[2].split()[0] == f"{d['difference']:+.2f}".replace("-", "−")
    people = [
        entry["criteria"][c]["human"]
        for name, entry in judge["variants"].items()
        for c in entry["criteria"]
        if name in ("base", "random")
    ]
    for row, human in zip(table(page_, "human-table")[1:], people, strict=True):
        assert row[2:] == [
            f"{decimal(human['kappa'])} {interval(human, 1, 3)}",
            percent(human["exact"]),
            str(human["n"]),
        ]


def test_sections_that_have_nothing_are_left_out(document, facts):
    result = {*sections(document)}
    assert not result & LABELS_ONLY and "answers" in result
    contexts = {v["context"] for v in facts["scores"]["variants"].values()}
    assert ("citations" in result) == bool(contexts & {"retrieved", "gold", "random"})
    assert ("retrieval" in result) == ("retrieved" in contexts)
    assert ("judge" in result) == ("judge" in facts["scores"])
    for section in document.all("section"):
        assert len(list(section.all("table", "p", "pre", "svg"))) > 0, section.attributes["id"]
        assert all(len(cells(example)) > 1 for example in section.all("table"))


def test_questions_are_called_questions(document):
    assert "test questions" in document.by_id("verdict").text
    assert "Changed examples" not in next(document.all("nav")).text
    for name in ("variants", "answers", "data"):
        text = document.by_id(name).text
        assert "test examples" not in text and "label" not in text, name


def test_caveats_name_counts_and_shares():
    text = warnings_text(page_of("squad"))
    assert "only 120 questions" in text
    invalid: dict[int, list[str]] = {}
    for name, variant in facts_of("squad")["scores"]["variants"].items():
        invalid.setdefault(variant["invalid"], []).append(name)
    assert len(invalid) > 1
    for n, names in invalid.items():
        assert (
            f"{', '.join(names)}: {n} of 120 outputs ({n / 1.2:.1f}%) do not occur in their context"
            in text
        ) == (n > 0)
    assert "3 of 120 contexts (2.5%) were too long for one prompt" in text
    assert (
        "citations" not in text and "judgements" not in text and "answers no question" not in text
    )
    text = warnings_text(page_of("policy"))
    assert "4 citations name a passage that was not retrieved" in text
    failed = [
        c["failed"]
        for v in facts_of("policy")["scores"]["judge"]["variants"].values()
        for c in v["criteria"].values()
    ]
    assert f"{sum(failed) + 5:,} of 1,800 judgements failed" in text


def test_a_variant_that_never_answers_is_told():
    never = {"value": 0.0, "low": 0.0, "high": 0.0}
    text = warnings_text(rebuilt("squad", variants__tuned__metrics__answer_words=never))
    assert "tuned: answers no question, because of its no-answer threshold; its scores" in text
    assert "majority: answers" not in text
    assert "tuned: answers no question; its scores" in warnings_text(
        rebuilt(
            "squad", variants__tuned__metrics__answer_words=never, variants__tuned__abstained=120
        )
    )


def test_a_variant_that_hardly_answers_says_what_its_no_answer_score_is_worth():
    entry = facts_of("squad")["scores"]["variants"]["tuned"]["no_answer"]
    text = warnings_text(rebuilt("squad", variants__tuned__abstained=119))
    assert "tuned: abstains on 119 of 120 questions" in text
    assert (
        f"AUROC {entry['auroc']['value']:.1%} ({entry['auroc']['low']:.1%} to "
        f"{entry['auroc']['high']:.1%}; chance is 50%). "
        f"On answerable questions its F1 was {entry['has_answer_f1_without']:.1%} before the "
        "threshold, and "
        f"{entry['has_answer_f1_always']:.1%} without abstention."
    ) in text
    assert "AUROC" not in warnings_text(page_of("squad"))
    assert "AUROC" not in warnings_text(
        rebuilt("squad", variants__tuned__abstained=119, variants__tuned__no_answer__auroc=None)
    )


def test_meteor_without_synonyms_is_told():
    for signature, entry in (
        ("nltk:3|without synonyms", True),
        ("nltk:3|synonyms:WordNet 3.0", False),
    ):
        changes = {
            f"variants__{name}__signatures__meteor": signature
            for name in facts_of("squad")["scores"]["variants"]
        }
        assert ("METEOR ran without WordNet" in warnings_text(rebuilt("squad", **changes))) == entry


def test_a_metric_that_some_variant_has_gets_its_column():
    figure = {"value": 0.8125, "low": 0.75, "high": 0.875}
    rows = table(rebuilt("policy", variants__tuned__metrics__bertscore_f1=figure), "variants-table")
    column = rows[0].index("BERTScore")
    assert {row[0].split()[0]: row[column] for row in rows[1:]}["tuned"] == "81.2% 75.0–87.5"
    assert {row[column] for row in rows[1:]} == {"81.2% 75.0–87.5", BLANK}
    assert "BERTScore" not in table(page_of("policy"), "variants-table")[0]


def test_a_final_answer_that_is_none_is_not_called_foreign_to_the_text():
    changed = copy.deepcopy(facts_of("squad")["scores"]["changed"])
    example = changed["fixed"]["examples"][0]
    example["before"], example["after"] = (
        {"output": text, "valid": False, "probability": None} for text in ("(no answer)", "gist")
    )
    text = rebuilt("squad", changed=changed).by_id("changed").text
    assert "not in the text: “gist”" in text and "not in the text: “(no answer)”" not in text


def test_the_summary_tells_what_each_prompt_saves():
    lines = (
        render_markdown(facts_of("squad"))
        .split("## Prompts tried")[1]
        .split("##")[0]
        .strip()
        .splitlines()
    )
    shown_rows = [line.split(" | ")[1:] for line in lines[2:]]
    assert shown_rows == [["41.0%", "200.0", "0.0 (0.0%) |"], ["45.0%", "150.0", "50.0 (25.0%) |"]]
    assert "(selected)" in lines[3] and "(selected)" not in lines[2]


def test_prompts_tried_show_the_measure_and_the_tokens_saved():
    rows = cells(page_of("squad").by_id("prompts").of_class("tried")[0])
    assert rows[0][1] == "F1" and [row[2:] for row in rows[1:]] == [
        ["200", "0 0.0%", ""],
        ["150", "50 25.0%", "selected"],
    ]
    assert "conservative for a mean of F1" in page_of("squad").by_id("prompts").text


def test_texts_from_questions_are_shown_and_never_acted_on():
    shown_page = page_of("hostile questions")
    assert not {e.tag for e in shown_page.all()} & {"script", "img", "i"}
    assert " ".join(HOSTILE.split()) in shown_page.by_id("changed").text


def test_changed_questions_show_the_passages_that_the_new_answer_cites():
    shown_at_all = 0
    for case in QUESTIONS:
        changed = facts_of(case)["scores"]["changed"]
        examples = [
            e
            for side in ("fixed", "broken")
            for e in (changed or {}).get(side, {}).get("examples", [])
        ]
        for source in [source for e in examples for source in e["sources"]]:
            assert " ".join(source.split()) in page_of(case).by_id("changed").text
            shown_at_all += 1
    assert shown_at_all
