"""Questions from every layout that they come in, and what is wrong with a row said where it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe
from prooftune.data import sources, splits
from prooftune.data.audit import audit
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.errors import UsageError
from prooftune.types import ANSWERABLE, UNANSWERABLE, Example, Study

CONTEXT = "Rollo was the first ruler of Normandy. He died in 930."


def squad(path: Path, articles: int = 1) -> Path:
    def paragraph(number: int) -> dict[str, Any]:
        answers = [{"text": text, "answer_start": 0} for text in ("Rollo", "Rollo", "Rollo was")]
        return {
            "context": f"{CONTEXT} {number}",
            "qas": [
                {
                    "id": f"a{number}",
                    "question": f"Who ruled {number}?",
                    "answers": answers,
                    "is_impossible": False,
                },
                {
                    "id": f"b{number}",
                    "question": f"Who sang {number}?",
                    "answers": [],
                    "plausible_answers": answers,
                    "is_impossible": True,
                },
            ],
        }

    data = [
        {"title": f"Title {n}", "paragraphs": [paragraph(2 * n), paragraph(2 * n + 1)]}
        for n in range(articles)
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


def read(path: Path, task: recipe.Task = "extractive-qa", **options: Any) -> Sequence[Example]:
    return sources.read_source(recipe.Source(path=str(path), **options), Path(), task).examples


def test_squad_merges_identical_answers(tmp_path: Path) -> None:
    first, second, *_ = read(squad(tmp_path / "s.json"), format="squad")
    assert (first.id, first.group, first.source) == ("a0", "Title 0", "s.json:a0")
    assert first.inputs == {"question": "Who ruled 0?", "context": f"{CONTEXT} 0"}
    assert (first.references, first.target, first.stratum) == (
        ("Rollo", "Rollo was"),
        "Rollo",
        ANSWERABLE,
    )
    # What seems an answer to an impossible question is none.
    assert (second.references, second.target, second.stratum) == ((), "", UNANSWERABLE)


def test_squad_of_the_first_version_has_no_impossible_questions(tmp_path: Path) -> None:
    value = json.loads(squad(tmp_path / "s.json").read_text())
    for question in value["data"][0]["paragraphs"][0]["qas"]:
        del question["is_impossible"]
    (tmp_path / "s.json").write_text(json.dumps(value))
    assert [e.references for e in read(tmp_path / "s.json", format="squad")][:2] == [
        ("Rollo", "Rollo was"),
        (),
    ]


@pytest.mark.parametrize(
    "cell", ['["Rollo", "Hrolf"]', '{"text": ["Rollo", "Hrolf"], "answer_start": [0, 3]}']
)
def test_a_cell_may_hold_several_answers(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        json.dumps(
            {
                "question": "Who?",
                "context": CONTEXT,
                "answers": json.loads(cell),
                "gold": ["p1", "p2"],
            }
        )
    )
    [example] = read(path, gold="gold")
    assert (example.references, example.gold) == (("Rollo", "Hrolf"), ("p1", "p2"))


def test_an_answer_may_begin_with_a_bracket(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("question,context,answer\nWhich?,see [1] there,[1] there\n")
    assert read(path)[0].references == ("[1] there",)


def test_alpaca_and_plain_questions_need_no_options(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"instruction": "Who?", "input": CONTEXT, "output": "Rollo"}])
    )
    (tmp_path / "b.csv").write_text("question,answer\nWho?,Rollo\n")
    assert read(tmp_path / "a.json", "free-text-qa")[0].inputs == {
        "question": "Who?",
        "context": CONTEXT,
    }
    assert read(tmp_path / "b.csv", "free-text-qa")[0].inputs == {"question": "Who?"}


def test_conversations_end_with_the_answer(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Rollo"}]
    more = [
        {"role": "system", "content": "Be short."},
        *turns,
        {"role": "user", "content": [{"type": "text", "text": "When?"}]},
        {"role": "assistant", "content": "911"},
    ]
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"id": i, "messages": m}) for i, m in enumerate([turns, more]))
    )
    first, second = read(tmp_path / "c.jsonl", "free-text-qa", id="id")
    assert (first.inputs["question"], first.references) == ("Who?", ("Rollo",))
    assert second.inputs["question"] == "When?" and first.inputs["history"] == ""
    assert json.loads(second.inputs["history"]) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Rollo"},
    ]
    assert (second.id, second.references) == ("1", ("911",))
    shared = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Rollo"}]
    (tmp_path / "s.json").write_text(json.dumps([{"conversations": shared}]))
    assert read(tmp_path / "s.json", "free-text-qa")[0].inputs == {"question": "Who?"}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([1], "should hold a list of turns"),
        (
            [
                {"role": "user", "content": [{"type": "image", "url": "x"}]},
                {"role": "assistant", "content": "a"},
            ],
            "should hold a list",
        ),
    ],
)
def test_conversations_in_another_layout_are_rejected(
    tmp_path: Path, cell: Any, message: str
) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": cell}))
    with pytest.raises(UsageError, match=rf"c\.jsonl:1: .*{message}"):
        read(tmp_path / "c.jsonl", "free-text-qa")


UNFINISHED: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Who?"}],
    [{"role": "assistant", "content": "Rollo"}],
    [{"role": "user", "content": "Who?"}, {"role": "tool", "content": "x"}],
    [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": None}],
    [],
]


def test_unfinished_conversations_are_left_out_and_counted(tmp_path: Path) -> None:
    finished = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Rollo"}]
    lines = [json.dumps({"messages": turns}) for turns in [*UNFINISHED, finished]]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    loaded = sources.read_source(recipe.Source(path="c.jsonl"), tmp_path, "free-text-qa")
    [example] = loaded.examples
    assert (example.inputs["question"], example.source) == ("Who?", "c.jsonl:6")
    [note] = loaded.notes
    assert note.startswith("c.jsonl: 5 conversations without an assistant turn") and ":1" in note
    (tmp_path / "c.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(UsageError, match=r"no conversation contains a user turn.*c\.jsonl:1"):
        sources.read_source(recipe.Source(path="c.jsonl"), tmp_path, "free-text-qa")


def test_turns_of_tools_and_developers_are_part_of_the_question(tmp_path: Path) -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Will it rain?"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "tool_call_id": "1", "content": "rain: yes"},
        {"role": "assistant", "content": "Yes."},
    ]
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": turns}))
    [example] = sources.read_source(
        recipe.Source(path="c.jsonl"), tmp_path, "free-text-qa"
    ).examples
    question = example.inputs["question"]
    assert question.startswith("Be brief.\n\nuser: Will it rain?\n\nassistant: [{")
    assert '"name": "weather"' in question and question.endswith("tool: rain: yes")


@pytest.mark.failure(24)
@pytest.mark.parametrize(
    ("text", "task", "options", "message"),
    [
        (
            "question,answer\nWho?,Rollo\n",
            "extractive-qa",
            {},
            r"q\.csv:2\. extractive-qa extracts answers from a context",
        ),
        (
            "question,context,answer\nWho?,,Rollo\n",
            "extractive-qa",
            {},
            r"1 row without a context: q\.csv:2",
        ),
        (
            "question,answer\nWho?,\nWhy?,so\n",
            "free-text-qa",
            {},
            r"1 row without a reference answer: q\.csv:2",
        ),
        ("question,answer\n,Rollo\n", "free-text-qa", {}, r"1 row without a question: q\.csv:2"),
        (
            "query,answer\nWho?,Rollo\n",
            "free-text-qa",
            {},
            r"no column 'question' \(data\.text\)\. Found 2: 'query', 'answer'",
        ),
        (
            "question,reply\nWho?,Rollo\n",
            "free-text-qa",
            {},
            r"no column 'answers' \(data\.label\)",
        ),
        (
            "question,answer\nWho?,Rollo\n",
            "free-text-qa",
            {"gold": "passage"},
            r"no column 'passage' \(data\.gold\)",
        ),
        (
            "question,answer\nWho?,Rollo\n",
            "free-text-qa",
            {"text": ["answer"]},
            r"one field must be the question",
        ),
        (
            "question,answer\nWho?,Rollo\n",
            "free-text-qa",
            {"text": {"question": "answer"}},
            r"the prompt would contain the answer",
        ),
    ],
)
def test_question_errors_name_the_location(
    tmp_path: Path, text: str, task: recipe.Task, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "q.csv", task, **options)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"data": [{"paragraphs": 3}]}', '{"data": []}', "[" * 100_000]
)
def test_files_not_in_squad_layout_are_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError, match=r"s\.json"):
        read(tmp_path / "s.json", format="squad")


def load(path: Path, **splitting: Any) -> tuple[Study, recipe.Recipe]:
    chosen = recipe.parse(
        {
            "name": "q",
            "task": "extractive-qa",
            "variants": ["majority"],
            "data": {"train": str(path), "format": "squad", "splitting": splitting},
        }
    )
    return splits.load_splits(chosen, Path()), chosen


def test_grouped_splits_have_no_context_leakage_and_random_ones_report_it(
    tmp_path: Path,
) -> None:
    path = squad(tmp_path / "s.json", articles=12)
    study, chosen = load(path, method="grouped")
    groups = [{e.group for e in examples} for examples in study.splits().values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert not [f for f in audit.audit_study(study, chosen).findings if f.code == "shared-context"]
    study, chosen = load(path, method="stratified")
    report = audit.audit_study(study, chosen)
    assert [f.severity for f in report.findings if f.code == "shared-context"] == ["warning"]
    # Questions on one text are different questions: no leak.
    assert not [f for f in report.findings if "leak" in f.code]
    assert report.label_counts["train"].keys() == {ANSWERABLE, UNANSWERABLE}


def test_answers_not_in_the_context_are_reported(tmp_path: Path) -> None:
    value = json.loads(squad(tmp_path / "s.json", articles=6).read_text())
    value["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [
        {"text": "Charlemagne", "answer_start": 0}
    ]
    (tmp_path / "s.json").write_text(json.dumps(value))
    study, chosen = load(tmp_path / "s.json", method="stratified")
    [finding] = [
        f for f in audit.audit_study(study, chosen).findings if f.code == "answer-not-in-context"
    ]
    assert finding.rows == ["s.json:a0"]


def test_the_public_files_have_the_sizes_that_their_notes_give(
    public_data: Callable[[str], Path],
) -> None:
    rows = read(public_data("squad_v2/dev-v2.0.json"), format="squad")
    assert (len(rows), sum(bool(e.references) for e in rows)) == (6078, 2910)
    assert len({e.inputs["context"] for e in rows}) == 646


@pytest.mark.parametrize(
    ("name", "text", "task", "fields"),
    [
        ("s.json", None, "extractive-qa", ["question", "context"]),
        (
            "q.csv",
            "Question,Context,Answer\nWho ruled {n}?,Rollo ruled {n}.,Rollo\n",
            "extractive-qa",
            ["question", "context"],
        ),
        ("q.csv", "question;answer\nWho ruled {n}?;Rollo\n", "free-text-qa", ["question"]),
    ],
)
def test_init_writes_a_recipe_for_questions_that_reads_them(
    tmp_path: Path, name: str, text: str | None, task: str, fields: list[str]
) -> None:
    if text is None:
        squad(tmp_path / name, articles=12)
    else:
        head, _, row = text.partition("\n")
        (tmp_path / name).write_text(
            "\n".join([head, *(row.format(n=n).strip() for n in range(30))]) + "\n"
        )
    written, sentences = draft_recipe(tmp_path / name, tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text(written)
    chosen, base = recipe.load(tmp_path / "recipe.yaml")
    assert chosen.task == task and any(task in sentence for sentence in sentences)
    study = splits.load_splits(chosen, base)
    assert list(study.train[0].inputs) == fields
    assert study.train[0].references is not None and study.test
