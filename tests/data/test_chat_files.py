"""Conversations as the text of chat templates, in files and columns; trees of messages; turns under
other names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.tabled import file
from data.test_init_evidence import TEXTS, drafted, jsonl, rows_of
from prooftune.data.readers.chat_text import read_chat_text, turns_of_text
from prooftune.errors import UsageError

QUESTIONS = [f"What happens if {text}?" for text in TEXTS]
ANSWERS = [f"Wait for {i} days, then write to us." for i in range(48)]
ASKED = list(zip(QUESTIONS, ANSWERS, strict=True))
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>"
)
GEMMA = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>\n"
BOILERPLATE = "Below is an instruction that describes a task. Write a response.\n\n"
ALPACA = "### Instruction:\n{}\n\n### Response:\n{}"
FILES = {
    "ChatML, blank lines": CHATML + "\n",
    "ChatML, end of text": CHATML + "<|endoftext|>\n",
    "Llama 2": "<s>[INST] {} [/INST] {} </s>\n",
    "Llama 3": LLAMA_3 + "\n",
    "Gemma, begin of text": "<bos>" + GEMMA,
    "Zephyr": "<|user|>\n{}</s>\n<|assistant|>\n{}</s>\n\n",
    "Alpaca": ALPACA + "\n\n",
    "Alpaca with its preamble": BOILERPLATE + ALPACA + "\n\n",
    "Guanaco": "### Human: {}\n### Assistant: {}\n\n",
    "Vicuna": "USER: {} ASSISTANT: {}</s>\n",
    "OIG": "<human>: {}\n<bot>: {}\n\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_conversations(tmp_path: Path, kind: str) -> None:
    path = file(tmp_path, "a.txt", "".join(FILES[kind].format(*pair) for pair in ASKED))
    values, study, _ = drafted(path)
    assert (values["task"], values["data"]["format"]) == ("free-text-qa", "chat")
    assert rows_of(study) == Counter(ASKED)


@pytest.mark.parametrize("template", [CHATML, GEMMA, "<human>: {}\n<bot>: {}\n"])
def test_files_that_do_not_show_where_a_conversation_ends(tmp_path: Path, template: str) -> None:
    path = file(tmp_path, "a.txt", "".join(template.format(*pair) for pair in ASKED))
    with pytest.raises(UsageError, match=r"nothing shows where one ends\. Put an empty line"):
        drafted(path)
    mended = "\n".join(template.format(*pair) for pair in ASKED)
    assert rows_of(drafted(file(tmp_path, "b.txt", mended))[1]) == Counter(ASKED)


def conversations(text: str) -> list[list[tuple[str, str]]]:
    rows = read_chat_text("a.txt", text).rows
    return [[(t["role"], t["content"]) for t in json.loads(row[0] or "")] for row in rows]


def test_conversations_of_several_turns() -> None:
    said = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    turns = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in said)
    # A blank line, or a system message, begins the next one.
    assert conversations(f"{turns}\n{turns}") == [said, said]
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert conversations((system + turns) * 2) == [[("system", "Be kind."), *said]] * 2
    # Llama 2 has both tokens around each pair, and a conversation in a line.
    line = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] d </s>\n"
    assert conversations(line * 2) == [[("system", "Be kind."), *said]] * 2
    # Blank lines between all turns mean nothing.
    with pytest.raises(UsageError, match="nothing shows where one ends"):
        conversations("Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d\n")
    # A preamble is a system message of its conversation.
    vicuna = "A chat of two. USER: a ASSISTANT: b</s>\n"
    assert conversations(vicuna * 2) == [[("system", "A chat of two."), *said[:2]]] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOILERPLATE + ALPACA.format("q", "a") + "</s>", [("user", "q"), ("assistant", "a")]),
        (
            "### Instruction:\nq\n\n### Input:\nx\n\n### Response:\na",
            [("user", "q\n\nx"), ("assistant", "a")],
        ),
        ("### Human: q### Assistant: a", [("user", "q"), ("assistant", "a")]),
        ("<human>: q\n<bot>: a\n<human>:", [("user", "q"), ("assistant", "a")]),
        ("\n\nHuman: q\n\nAssistant: a", [("user", "q"), ("assistant", "a")]),
        ("The Human: a study. No Assistant: needed.", None),
        ("Instruction: read the manual", None),
    ],
)
def test_turns_of_marked_texts(text: str, expected: list[tuple[str, str]] | None) -> None:
    turns = turns_of_text(text)
    said = None if turns is None else [(t["role"], t["content"]) for t in turns]
    assert said == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_column_of_alpaca_texts(tmp_path: Path, name: str) -> None:
    texts = [BOILERPLATE + ALPACA.format(*pair) for pair in ASKED]
    if name == "a.csv":
        path = file(tmp_path, name, "text\n" + "".join(f'"{t}"\n' for t in texts))
    else:
        path = jsonl(tmp_path / name, [{"text": t} for t in texts])
    values, study, _ = drafted(path)
    assert values["task"] == "free-text-qa" and rows_of(study) == Counter(ASKED)


def test_the_answer_column_wins_over_the_rendered_text(tmp_path: Path) -> None:
    records = [{"instruction": q, "output": a, "text": ALPACA.format(q, a)} for q, a in ASKED]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert values["data"]["label"] == "output" and rows_of(study) == Counter(ASKED)


KEYS = [("items", "from", "value"), ("turns", "role", "content"), ("thread", "speaker", "text"),
        ("log", "author", "message"), ("x", "sender", "utterance")]  # fmt: skip


@pytest.mark.parametrize(("column", "role", "text"), KEYS)
def test_turns_under_any_name(tmp_path: Path, column: str, role: str, text: str) -> None:
    records = [
        {
            "id": str(i),
            column: [{role: "Human", text: q}, {role: "Bot", text: a}],
            "tags": [{"a": 1}],
        }
        for i, (q, a) in enumerate(ASKED)
    ]
    values, study, _ = drafted(file(tmp_path, "a.json", json.dumps(records)))
    assert values["task"] == "free-text-qa" and rows_of(study) == Counter(ASKED)


def test_turns_of_two_models_are_not_guessed(tmp_path: Path) -> None:
    def turns(q: str, a: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": q}, {"role": "assistant", "content": a}]

    records = [{"model_a": turns(q, a), "model_b": turns(q, a + "!")} for q, a in ASKED]
    with pytest.raises(UsageError, match="no column looks like a"):
        drafted(jsonl(tmp_path / "a.jsonl", records))


def message(name: str, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"message_id": name, "role": role, "text": text, **more}


@pytest.mark.parametrize("rank", ["rank", "order"])
def test_trees_of_messages(tmp_path: Path, rank: str) -> None:
    trees, flat = [], []
    for i, (q, a) in enumerate(ASKED):
        best: dict[str, Any] = {"rank": 0}
        other: dict[str, Any] = {"rank": 1}
        if rank == "order":  # no ranks: the first reply
            best, other = {"rank": None}, {}
        replies = [
            message(f"b{i}", "assistant", a, **best,
                    replies=[message(f"c{i}", "prompter", "thanks", replies=[])]),
            message(f"d{i}", "assistant", "no idea", **other, replies=[]),
        ]  # fmt: skip
        replies = replies[::-1] if rank == "rank" else replies
        trees.append(
            {"message_tree_id": f"a{i}", "prompt": message(f"a{i}", "prompter", q, replies=replies)}
        )
        flat.append(message(f"a{i}", "prompter", q, parent_id=None, lang="en"))
        parents = {"b": "a", "c": "b", "d": "a"}
        for reply in [*replies, *replies[0]["replies"], *replies[1]["replies"]]:
            parent = f"{parents[reply['message_id'][0]]}{i}"
            flat.append({k: v for k, v in reply.items() if k != "replies"} | {"parent_id": parent})
    for name, records in (("trees.jsonl", trees), ("flat.jsonl", flat)):
        values, study, notes = drafted(jsonl(tmp_path / name, records))
        assert values["task"] == "free-text-qa" and rows_of(study) == Counter(ASKED)
        assert any("48 trees of 192 messages; the best replies are read (96" in n for n in notes)


def test_damaged_trees_are_named(tmp_path: Path) -> None:
    good = {"prompt": message("a", "prompter", "hi", replies=[])}
    bad = {"prompt": {"text": "hi", "replies": []}}
    with pytest.raises(UsageError, match=r"a\.jsonl:2: column 'prompt' should hold a message"):
        drafted(jsonl(tmp_path / "a.jsonl", [good, bad]))
    loop = [message("a", "prompter", "x", parent_id="b"), message("b", "bot", "y", parent_id="a")]
    with pytest.raises(UsageError, match="so none begins"):
        drafted(jsonl(tmp_path / "b.jsonl", loop))


@pytest.mark.parametrize("kind", ["turns", "ChatML", "Human and Assistant"])
def test_labels_of_conversations_are_labels(tmp_path: Path, kind: str) -> None:
    labels = [("safe", "unsafe")[i % 2] for i in range(48)]

    def chat(q: str, a: str) -> dict[str, Any]:
        if kind == "turns":
            said = [("user", q), ("assistant", a)]
            return {"messages": [{"role": role, "content": text} for role, text in said]}
        return {
            "text": CHATML.format(q, a) if kind == "ChatML" else f"Human: {q}\n\nAssistant: {a}"
        }

    records = [{**chat(*pair), "label": x} for pair, x in zip(ASKED, labels, strict=True)]
    values, study, _ = drafted(jsonl(tmp_path / "a.jsonl", records))
    assert (values["task"], values["data"]["label"]) == ("classification", "label")
    expected = Counter((f"{q} {a}", x) for (q, a), x in zip(ASKED, labels, strict=True))
    assert rows_of(study) == expected
