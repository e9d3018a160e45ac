"""``prooftune data export``: the recipe's examples in the formats that other fine-tuning tools
read."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from prooftune.recipe import Recipe
from prooftune.tasks.task import task_for
from prooftune.tasks.templates import default_template
from prooftune.types import Example, Study
from prooftune.utils.files import atomic_path

Format = Literal["alpaca", "chat", "completion"]
TargetText = Callable[[Example], str]

FORMATS: tuple[Format, ...] = ("alpaca", "chat", "completion")


def export(study: Study, recipe: Recipe, format_: Format, folder: Path) -> list[Path]:
    """Write one JSON Lines file per split.

    Args:
        study: the examples, split and audited.
        recipe: its prompt is the instruction.
        format_: ``alpaca`` (instruction, input, output), ``chat`` (messages with roles) or
            ``completion`` (prompt, completion).
        folder: where the files go.

    Returns:
        The files written.
    """
    template = recipe.prompt.template or default_template(
        recipe.task, list(study.train[0].inputs), recipe.answering.no_answer
    )
    make = {"alpaca": _alpaca, "chat": _chat, "completion": _completion}[format_]
    record = make(template, recipe.prompt.system, study.labels, task_for(recipe).target_text)
    written = []
    for name, examples in study.splits().items():
        if examples:
            path = folder / f"{name}.jsonl"
            _write(path, examples, record)
            written.append(path)
    return written


def _write(
    path: Path, examples: Sequence[Example], record: Callable[[Example], Mapping[str, Any]]
) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for example in examples:
            handle.write(json.dumps(record(example), ensure_ascii=False) + "\n")


def _alpaca(
    template: str, system: str | None, labels: Sequence[str], said: TargetText
) -> Callable[[Example], dict[str, Any]]:
    """Instruction: the template's lines before the first input; input: the lines from there on that
    hold one.

    Lines that only name a section (``### Input:``) belong to a rendered prompt and not to its
    parts.
    """
    lines = [
        line
        for line in template.splitlines()
        if not (line.startswith("#") and line.rstrip().endswith(":"))
    ]
    with_input = [bool(_fields(line)) for line in lines]
    first = with_input.index(True)
    last = len(lines) - with_input[::-1].index(True)
    # An instruction may also stand after the text.
    around = "\n".join([*lines[:first], *lines[last:]]).strip()
    instruction = _fill(f"{system}\n\n{around}" if system else around, {}, labels)
    shown = "\n".join(lines[first:last])
    return lambda e: {
        "instruction": instruction,
        "input": _fill(shown, e.inputs, labels),
        "output": said(e),
    }


def _chat(
    template: str, system: str | None, labels: Sequence[str], said: TargetText
) -> Callable[[Example], dict[str, Any]]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return lambda e: {
        "messages": [
            *before,
            {"role": "user", "content": _fill(template, e.inputs, labels)},
            {"role": "assistant", "content": said(e)},
        ]
    }


def _completion(
    template: str, system: str | None, labels: Sequence[str], said: TargetText
) -> Callable[[Example], dict[str, Any]]:
    start = f"{system}\n\n" if system else ""
    return lambda e: {
        "prompt": start + _fill(template, e.inputs, labels),
        "completion": f" {said(e)}",
    }


def _fields(line: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(line) if name and name != "labels"}


def _fill(template: str, inputs: Mapping[str, str], labels: Sequence[str]) -> str:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(", ".join(labels) if name == "labels" else inputs[name])
    return "".join(parts)
