"""Examples written for other tools: the same instruction, input and answer as our own prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe
from prooftune.data.export import FORMATS, Format, export
from prooftune.types import Example, Study

STUDY = Study(
    [
        Example("1", {"title": "Cup final", "body": "They won {2:1}."}, "Sports"),
        Example("2", {"title": "Ü\u2028x", "body": ""}, "World"),
    ],
    [],
    [Example("3", {"title": "Vote", "body": "Today."}, "World")],
    ["Sports", "World"],
)


def written(folder: Path, format_: Format, **prompt: Any) -> dict[str, list[dict[str, Any]]]:
    chosen = recipe.parse(
        {"name": "x", "data": {"train": "a.csv"}, "variants": ["majority"], "prompt": prompt}
    )
    paths = export(STUDY, chosen, format_, folder)
    # Split at line feeds only: a text may hold other line breaks.
    return {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").rstrip("\n").split("\n")]
        for path in paths
    }


def test_alpaca_divides_the_template_at_its_first_input(tmp_path: Path) -> None:
    template = (
        "### Instruction:\nName the topic: {labels}.\n\n### Input:\n{title}\n{body}\n\n### "
        "Response:"
    )
    exported = written(tmp_path, "alpaca", template=template)
    assert exported["train"][0] == {
        "instruction": "Name the topic: Sports, World.",
        "input": "Cup final\nThey won {2:1}.",
        "output": "Sports",
    }
    assert list(exported) == ["train", "test"]


def test_alpaca_takes_an_instruction_after_the_text_and_the_system_message(tmp_path: Path) -> None:
    exported = written(
        tmp_path, "alpaca", template="{title}: {body}\nWhich of {labels}?", system="You sort news."
    )
    assert exported["test"] == [
        {
            "instruction": "You sort news.\n\nWhich of Sports, World?",
            "input": "Vote: Today.",
            "output": "World",
        }
    ]


def test_chat_has_the_turns_of_the_prompt(tmp_path: Path) -> None:
    exported = written(tmp_path, "chat", template="{title} {labels}", system="Sort.")
    assert exported["train"][1]["messages"] == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "Ü\u2028x Sports, World"},
        {"role": "assistant", "content": "World"},
    ]


def test_completion_begins_with_a_space(tmp_path: Path) -> None:
    assert written(tmp_path, "completion", template="{title}:")["test"] == [
        {"prompt": "Vote:", "completion": " World"}
    ]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_default_template_is_exported_too(tmp_path: Path, format_: Format) -> None:
    rows = written(tmp_path, format_)["train"]
    assert "Sports, World" in json.dumps(rows[0]) and "Cup final" in json.dumps(rows[0])
