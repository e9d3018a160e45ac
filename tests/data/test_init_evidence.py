"""`init` on the layouts that annotation tools, spreadsheets and fine-tuning tools write: the recipe
it writes reads the same rows, or it says why not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.tabled import file
from prooftune import recipe as recipes
from prooftune.data.init.inferred_options import InitChoices
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.splits import load_splits
from prooftune.errors import UsageError
from prooftune.types import Study

TEXTS = [f"{('the parcel came late', 'my card was refused')[i % 2]} on day {i}" for i in range(48)]
LABELS = [("delivery", "payment")[i % 2] for i in range(48)]
ROWS = list(zip(TEXTS, LABELS, strict=True))


def drafted(
    path: Path, choices: InitChoices | None = None
) -> tuple[dict[str, Any], Study, list[str]]:
    target = path.parent / "drafted.yaml"
    text, notes = draft_recipe(path, target, choices)
    target.write_text(text, "utf-8")
    loaded, base = recipes.load(target)
    return yaml.safe_load(text), load_splits(loaded, base), notes


def rows_of(study: Study) -> Counter[tuple[str, str]]:
    examples = [e for split in study.splits().values() for e in split]
    return Counter((" ".join(e.inputs.values()), str(e.target)) for e in examples)


def jsonl(path: Path, records: list[Any]) -> Path:
    return file(path.parent, path.name, "".join(json.dumps(r) + "\n" for r in records))


def chat(text: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    }


def content(name: str) -> str:
    if name == "blank.csv":
        return "text,label\n" + "".join(f"{t},{x}\n,\n" for t, x in ROWS)
    if name == "sep.csv":
        return "sep=|\r\ntext|label\r\n" + "".join(f"{t}|{x}\r\n" for t, x in ROWS)
    if name == "tails.csv":
        return "text,label\n" + "".join(f"{t},{x},,\n" for t, x in ROWS)
    if name == "title.csv":
        return "Export of 1 May\n\ntext,label,by\n" + "".join(f"{t},{x},me\n" for t, x in ROWS)
    if name == "labels.txt":
        return "".join(f"__label__{x} {t}\n" for t, x in ROWS)
    if name == "lists.jsonl":
        return "".join(json.dumps({"text": t, "label": [x]}) + "\n" for t, x in ROWS)
    if name == "chat.jsonl":
        return "".join(json.dumps(chat(t, x)) + "\n" for t, x in ROWS)
    if name == "alpaca.json":
        return json.dumps([{"instruction": "Sort.", "input": t, "output": x} for t, x in ROWS])
    if name == "twins.jsonl":
        return "".join(
            json.dumps({"text": t, "label": int(x == "payment"), "label_text": x}) + "\n"
            for t, x in ROWS
        )
    return json.dumps(
        {
            "train": [{"text": t, "label": x} for t, x in ROWS[:36]],
            "test": [{"text": t, "label": x} for t, x in ROWS[36:]],
        }
    )


@pytest.mark.parametrize(
    "name",
    [
        "blank.csv",
        "sep.csv",
        "tails.csv",
        "title.csv",
        "labels.txt",
        "lists.jsonl",
        "chat.jsonl",
        "alpaca.json",
        "twins.jsonl",
        "splits.json",
    ],
)
def test_no_row_is_lost_or_changed(tmp_path: Path, name: str) -> None:
    values, study, _ = drafted(file(tmp_path, name, content(name)))
    assert values["task"] == "classification"
    assert rows_of(study) == Counter(ROWS)


def test_the_turns_before_a_question_are_named_as_used(tmp_path: Path) -> None:
    records = [
        {
            "messages": [
                {"role": "user", "content": f"Parcel {text} is late."},
                {"role": "assistant", "content": "Which city?"},
                {"role": "user", "content": f"Nairobi, number {i}."},
                {"role": "assistant", "content": f"{text} arrives on day {i}."},
            ]
        }
        for i, (text, _) in enumerate(ROWS)
    ]
    values, study, notes = drafted(jsonl(tmp_path / "chat.jsonl", records))
    assert values["task"] == "free-text-qa" and "history" in study.train[0].inputs
    said = " ".join(notes)
    assert "earlier turns are part of the prompt" in said and "Not used" not in said


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16"])
def test_encodings_are_written_into_the_recipe(tmp_path: Path, encoding: str) -> None:
    rows = [
        (
            f"{('посылка пришла поздно', 'карту не приняли')[i % 2]} {i}",
            ("доставка", "оплата")[i % 2],
        )
        for i in range(40)
    ]
    text = "text,label\n" + "".join(f"{t},{x}\n" for t, x in rows)
    values, study, _ = drafted(file(tmp_path, "a.csv", text.encode(encoding)))
    assert values["data"]["encoding"] == encoding
    assert rows_of(study) == Counter(rows)


@pytest.mark.parametrize(
    "records",
    [
        [
            {"text": t, "label": [x, "urgent"] if i % 4 == 0 else [x]}
            for i, (t, x) in enumerate(ROWS)
        ],
        [{"text": t, "label": f"{x};urgent" if i % 4 < 2 else x} for i, (t, x) in enumerate(ROWS)],
        [{"text": t, "label": str([x, "urgent"])} for t, x in ROWS],
    ],
)
def test_several_labels_per_row_make_the_task_multilabel(
    tmp_path: Path, records: list[Any]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", records)
    recipe, study, _ = drafted(path)
    assert recipe["task"] == "multilabel"
    assert study.labels == sorted({*(x for _, x in ROWS), "urgent"})
    # A head has its own number of epochs, of which the recipe must not be an override.
    assert "num_train_epochs" not in recipe["training"]
    assert any(len(example.targets) == 2 for example in study.train)
    # One label per text was asked for, and cannot be had.
    with pytest.raises(
        UsageError, match=r"several labels in column 'label' \(a\.jsonl:1: delivery, urg"
    ):
        draft_recipe(path, tmp_path / "r.yaml", InitChoices(task="classification"))


def test_labels_with_commas_that_do_not_recur_are_labels(tmp_path: Path) -> None:
    names = {"delivery": "Delivery, shipping", "payment": "Cards, cash and refunds"}
    records = [{"text": t, "label": names[x]} for t, x in ROWS]
    _, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert set(study.labels) == set(names.values())


@pytest.mark.parametrize("question", ["instruction", "prompt", "question", "user_input", "query"])
@pytest.mark.parametrize("answer", ["output", "completion", "response", "reference", "answer"])
def test_instruction_layouts(tmp_path: Path, question: str, answer: str) -> None:
    records = [{question: f"What is {i}?", answer: f"It is number {i}."} for i in range(30)]
    path = jsonl(tmp_path / "a.jsonl", records)
    known = {
        ("instruction", "reference"),
        ("prompt", "reference"),
        ("query", "completion"),
        ("query", "reference"),
        ("user_input", "output"),
        ("user_input", "completion"),
        ("user_input", "answer"),
    }
    if (question, answer) in known:  # no tool writes these; both columns are just texts
        with pytest.raises(UsageError, match="no column looks like a label"):
            drafted(path)
        return
    values, study, _ = drafted(path)
    assert values["task"] == "free-text-qa"
    assert {e.inputs["question"] for e in study.train} <= {r[question] for r in records}


def test_multiple_choice_in_columns_of_its_own_is_refused(tmp_path: Path) -> None:
    records = [
        {"question": f"Which {i}?", "A": "x", "B": "y", "answer": "AB"[i % 2]} for i in range(30)
    ]
    with pytest.raises(UsageError, match=r"letters of 'A', 'B': multiple choice"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def test_preferences_are_named(tmp_path: Path) -> None:
    records = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(30)]
    with pytest.raises(UsageError, match="holds preferences"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nhello<|im_end|>\n" * 20,
        "".join(
            f"A sentence about kettles, which goes on for a while, number {i}.\n" for i in range(60)
        ),
    ],
)
def test_what_holds_no_labels_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"chat template|no labels to learn"):
        drafted(file(tmp_path, "a.txt", text))


def test_choices_of_the_user_win(tmp_path: Path) -> None:
    records = [
        {"a": t, "b": f"second {t}", "kind": x, "other": "xy"[i // 24]}
        for i, (t, x) in enumerate(ROWS)
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    values, study, _ = drafted(path, InitChoices(text=["a", "b"], label="other"))
    assert values["data"]["text"] == ["a", "b"] and study.labels == ["x", "y"]
    for choices, message in (
        (InitChoices(label="knd"), "no column 'knd'.*kind"),
        (InitChoices(task="classify"), "--task: one of"),
        (InitChoices(format="cvs"), "--format: one of .*csv"),
        (InitChoices(text=["kind"], label="kind"), "cannot be both"),
    ):
        with pytest.raises(UsageError, match=message):
            drafted(path, choices)


def test_close_candidates_are_asked_about(tmp_path: Path) -> None:
    records = [
        {"text": t, "topic": x, "intent": x.upper(), "gender": "fm"[i % 3 > 1]}
        for i, (t, x) in enumerate(ROWS)
    ]
    path = jsonl(tmp_path / "a.jsonl", records)
    questions: list[list[str]] = []

    def second(question: str, options: list[str]) -> int:
        questions.append(options)
        return 1

    text, _ = draft_recipe(path, tmp_path / "a.yaml", None, second)
    [options] = questions
    assert ["topic" in options[0], "intent" in options[1], len(options)] == [True, True, 2]
    assert yaml.safe_load(text)["data"]["label"] == "intent"
    assert "other candidates: 'topic', 'gender'" in text


@pytest.mark.parametrize(
    "script", ["ጥሩ ስልክ ነው ", "यह फ़ोन अच्छा है ", "这个手机很好用", "fine phone "]
)
def test_prompts_hold_texts_of_every_script(tmp_path: Path, script: str) -> None:
    """Amharic, Hindi and Chinese take up to a token per byte."""
    text = "text,label\n" + "".join(f"{script * 12}{i},{'ab'[i % 2]}\n" for i in range(40))
    values, _, _ = drafted(file(tmp_path, "a.csv", text))
    assert (
        values["prompt"]["max_length"] >= min(1024, len(script.encode()) * 12) or script.isascii()
    )


@pytest.mark.slow
def test_a_hundred_and_fifty_labels(tmp_path: Path) -> None:
    rows = "".join(
        f"please do thing number {i % 150} now {i},intent_number_{i % 150}\n" for i in range(900)
    )
    values, study, notes = drafted(file(tmp_path, "a.csv", "text,label\n" + rows))
    assert len(study.labels) == 150
    listed = sum(len(label) for label in study.labels) / 4
    assert values["prompt"]["max_length"] > listed
    assert any("lists all 150 labels" in note for note in notes)


def test_a_column_of_languages_becomes_data_language(tmp_path: Path) -> None:
    lines = [f"{text},{label},{('swa', 'hau')[i % 3 == 0]}" for i, (text, label) in enumerate(ROWS)]
    path = file(tmp_path, "both.csv", "\n".join(["text,label,language", *lines]))
    values, study, notes = drafted(path)
    assert values["data"]["language"] == "language"
    assert study.languages() == ["hau", "swa"]
    assert any("2 languages: swa (32), hau (16)" in note for note in notes)
    assert not any("Not used" in note for note in notes)
    # Alone with the text, the language is what is to be predicted.
    alone = [f"{text},{('swa', 'hau')[i % 3 == 0]}" for i, (text, _) in enumerate(ROWS)]
    values, study, _ = drafted(file(tmp_path, "alone.csv", "\n".join(["text,language", *alone])))
    assert (values["data"]["label"], values["data"].get("language")) == ("language", None)
    assert study.labels == ["hau", "swa"]


def test_few_answers_of_conversations_are_not_labels(tmp_path: Path) -> None:
    turns = [
        [*chat(text, f"That is {label}.")["messages"], *chat("Only the topic.", label)["messages"]]
        for text, label in ROWS
    ]
    path = jsonl(tmp_path / "turns.jsonl", [{"messages": turn} for turn in turns])
    values, study, notes = drafted(path)
    # The question is the same everywhere: only the turns before it tell the answers apart.
    assert values["task"] == "free-text-qa"
    assert len({e.inputs["history"] for e in study.train}) == len(study.train)
    assert any("--task classification" in note for note in notes)
    assert not any("Not used" in note for note in notes)
    # A system message is no earlier turn.
    system = {"role": "system", "content": "Name the topic."}
    single = [{"messages": [system, *chat(text, label)["messages"]]} for text, label in ROWS]
    values, _, _ = drafted(jsonl(tmp_path / "single.jsonl", single))
    assert values["task"] == "classification"
    text, notes = draft_recipe(path, tmp_path / "labels.yaml", InitChoices(task="classification"))
    assert yaml.safe_load(text)["task"] == "classification"
    assert any("Earlier turns of the conversations are not read" in note for note in notes)
