"""Files of preferences in the layouts of TRL and hh-rlhf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prooftune.data.init.sniffing import sniff_file
from prooftune.data.preferences import read_preferences
from prooftune.data.question_columns import detect_question_columns
from prooftune.errors import UsageError


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


LAYOUTS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Two and two?", "chosen": "4", "rejected": "5"},
    "messages": {
        "prompt": [turn("user", "Two and two?")],
        "chosen": [turn("assistant", "4")],
        "rejected": [turn("assistant", "5")],
    },
    "prompt and whole conversations": {
        "prompt": "Two and two?",
        "chosen": [turn("user", "Two and two?"), turn("assistant", "4")],
        "rejected": [turn("user", "Two and two?"), turn("assistant", "5")],
    },
    "implicit prompt": {
        "chosen": [turn("user", "Two and two?"), turn("assistant", "4")],
        "rejected": [turn("user", "Two and two?"), turn("assistant", "5")],
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: Two and two?\n\nAssistant: 4",
        "rejected": "\n\nHuman: Two and two?\n\nAssistant: 5",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    [pair] = read_preferences(write(tmp_path / "pairs.jsonl", LAYOUTS[layout]))
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Two and two?", "4", "5")
    assert pair.source == "pairs.jsonl:1"


def test_earlier_turns_come_before_the_question(tmp_path: Path) -> None:
    start = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Two and two?\n\nAssistant:"
    rows = {"chosen": f"{start} 4", "rejected": f"{start} 5"}
    [pair] = read_preferences(write(tmp_path / "pairs.jsonl", rows))
    assert pair.prompt == "user: Hello\n\nassistant: Hi\n\nuser: Two and two?"


def test_equal_answers_are_left_out_and_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\na,"b, c",d\ne,f,f\n', "utf-8")
    assert [(p.prompt, p.chosen, p.rejected) for p in read_preferences(path)] == [
        ("a", "b, c", "d")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "chosen": "b"}, "has no column 'rejected'.*Found prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "rejetced": "c"}, r"did you mean 'rejetced'\?"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "pairs.jsonl:1: no text in column 'rej"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "no row has two different answers"),
        ({"chosen": "b", "rejected": "c"}, "these are no conversations"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: c"},
            "these have different beginnings",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "d"},
            "column 'chosen' ends with user",
        ),
    ],
)
def test_files_that_are_no_pairs(row: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_preferences(write(tmp_path / "pairs.jsonl", row))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pairs\.jsonl"):
        read_preferences(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(("layout", "name"), [("texts", "TRL"), ("hh-rlhf", "hh-rlhf")])
def test_init_names_the_layout_and_where_pairs_go(layout: str, name: str, tmp_path: Path) -> None:
    table, _ = sniff_file(write(tmp_path / "pairs.jsonl", *[LAYOUTS[layout]] * 3))
    with pytest.raises(UsageError, match=f"layout of {name}.*objective: preference.*pairs: FILE"):
        detect_question_columns(table)
