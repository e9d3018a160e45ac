"""What `data export` writes in any format, `init` reads as the same task with the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe as recipes
from prooftune.bridges.exporting import EXPORT_TOOLS, ExportTool, export_for_tool
from prooftune.data.export import FORMATS, Format, export
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.splits import load_splits
from prooftune.types import Example, Study

MODEL = "meta-llama/Llama-3.2-1B-Instruct"
WORDS = "harbour ledger velvet quartz meadow signal copper lantern orchid tundra pepper canyon"
PEOPLE = ["Rollo", "Ada Byron", "Grace Hopper", "Ibn Sina", "王小波", "Şebnem", "L'Ouverture"]


def text(number: int) -> str:
    words = WORDS.split()
    return " ".join(words[(number * step + number // 7) % len(words)] for step in (1, 5, 7, 11))


def classified(labels: Sequence[str]) -> list[Example]:
    return [
        Example(str(i), {"text": f'{text(i)}\n"{i}", then'}, labels[i % len(labels)])
        for i in range(40)
    ]


def asked(context: bool, extracts: bool) -> list[Example]:
    rows = []
    for i in range(40):
        answer = f"{PEOPLE[i % len(PEOPLE)]} {i}"
        inputs = {"question": f"who wrote {text(i)}?"}
        if context:
            inputs["context"] = f"{text(i + 3)}. It was {answer}, they say."
        target = answer if extracts else f"They say that {answer} did, near the {text(i + 1)}."
        rows.append(Example(str(i), inputs, target, references=(target,)))
    return rows


STUDIES: dict[str, tuple[str, list[Example]]] = {
    "labels": ("classification", classified(["praise", "complaint"])),
    "names": ("classification", classified(["card_arrival", "lost or stolen?", "贷款", "N/A+"])),
    "questions": ("free-text-qa", asked(False, False)),
    "contexts": ("free-text-qa", asked(True, False)),
    "extracts": ("extractive-qa", asked(True, True)),
}


@pytest.mark.parametrize("format_", [*FORMATS, *EXPORT_TOOLS, "completions for llama-factory"])
@pytest.mark.parametrize("kind", STUDIES)
def test_exported_rows_are_read_as_the_same_task(kind: str, format_: str, tmp_path: Path) -> None:
    task, examples = STUDIES[kind]
    labels = sorted({str(e.target) for e in examples}) if task == "classification" else []
    study = Study(examples, [], examples[:5], labels)
    values: dict[str, Any] = {
        "name": "x",
        "task": task,
        "data": {"train": "a.csv"},
        "model": MODEL,
        "variants": ["tuned"],
    }
    if task != "classification":
        values["data"]["text"] = ["question", "context"][: len(examples[0].inputs)]
    if format_ in FORMATS:
        export(study, recipes.parse(values), _format(format_), tmp_path)
    else:
        if format_.startswith("completions"):
            values["prompt"] = {"chat": False}
        tool: ExportTool = next(tool for tool in EXPORT_TOOLS if format_.endswith(tool))
        export_for_tool(study, recipes.parse(values), tool, tmp_path)
    target = tmp_path / "back.yaml"
    written, _ = draft_recipe(tmp_path / "train.jsonl", target)
    target.write_text(written, "utf-8")
    recipe, base = recipes.load(target)
    # In other formats than Alpaca's the context is a part of the question, so that an extracted
    # answer has become a free one.
    extracted = task == "extractive-qa" and format_ != "alpaca"
    assert recipe.task == ("free-text-qa" if extracted else task)
    read = load_splits(recipe, base)
    rows = [e for part in read.splits().values() for e in part]
    assert len(rows) == len(examples)
    assert read.labels == labels
    for row in rows:
        prompt = "\n".join(row.inputs.values())
        [source] = [e for e in examples if all(value in prompt for value in e.inputs.values())]
        assert row.target == source.target
        if task != "classification":
            assert row.references == source.references


def _format(name: str) -> Format:
    return next(format_ for format_ in FORMATS if format_ == name)
