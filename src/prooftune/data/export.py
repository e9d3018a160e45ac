"""``prooftune data export``: the examples of a recipe in formats of other fine-tuning tools."""

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
FORMATS: tuple[Format, ...] = ("alpaca", "chat", "completion")

TargetText = Callable[[Example], str]
ToRecord = Callable[[Example], dict[str, Any]]


def export(study: Study, recipe: Recipe, format_: Format, folder: Path) -> list[Path]:
    """Write one JSON Lines file per split.

    Args:
        study: the examples, split and audited.
        recipe: its prompt becomes the instruction.
        format_: ``alpaca`` (instruction, input, output), ``chat`` (messages with roles) or
            ``completion`` (prompt, completion).
        folder: output folder.

    Returns:
        The files written.
    """
    template = recipe.prompt.template or default_template(
        recipe.task, list(study.train[0].inputs), recipe.answering.no_answer
    )
    target_text = task_for(recipe).target_text
    return write_records(study, folder, format_, template, recipe.prompt.system, target_text)


def write_records(
    study: Study,
    folder: Path,
    format_: Format,
    template: str,
    system: str | None,
    target_text: TargetText,
    suffix: str = "",
) -> list[Path]:
    """Write one JSON Lines file per split, in one of `FORMATS`.

    Args:
        study: the examples.
        folder: output folder.
        format_: the format of a record.
        template: prompt template.
        system: system message, or None.
        target_text: example -> the target as the model should write it.
        suffix: text after every completion, such as the model's end token.
    """
    make_converter = {"alpaca": _alpaca, "chat": _chat, "completion": _completion}[format_]
    to_record = make_converter(
        template, system, study.labels, lambda example: target_text(example) + suffix
    )
    paths = []
    for name, examples in study.splits().items():
        if examples:
            path = folder / f"{name}.jsonl"
            _write_jsonl(path, examples, to_record)
            paths.append(path)
    return paths


def _write_jsonl(path: Path, examples: Sequence[Example], to_record: ToRecord) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        for example in examples:
            handle.write(json.dumps(to_record(example), ensure_ascii=False) + "\n")


def _alpaca(
    template: str, system: str | None, labels: Sequence[str], target_text: TargetText
) -> ToRecord:
    """Return a converter to Alpaca records.

    The lines of the template from the first to the last one with an input field become ``input``,
    the others ``instruction``. Section headings (``### Input:``) belong to the rendered prompt only
    and are left out.
    """
    lines = [
        line
        for line in template.splitlines()
        if not (line.startswith("#") and line.rstrip().endswith(":"))
    ]
    has_field = [bool(_input_fields(line)) for line in lines]
    start = has_field.index(True)
    end = len(lines) - has_field[::-1].index(True)
    # The instruction can continue after the text.
    instruction = "\n".join([*lines[:start], *lines[end:]]).strip()
    instruction = _render(f"{system}\n\n{instruction}" if system else instruction, {}, labels)
    input_template = "\n".join(lines[start:end])
    return lambda example: {
        "instruction": instruction,
        "input": _render(input_template, example.inputs, labels),
        "output": target_text(example),
    }


def _chat(
    template: str, system: str | None, labels: Sequence[str], target_text: TargetText
) -> ToRecord:
    system_messages = [{"role": "system", "content": system}] if system is not None else []
    return lambda example: {
        "messages": [
            *system_messages,
            {"role": "user", "content": _render(template, example.inputs, labels)},
            {"role": "assistant", "content": target_text(example)},
        ]
    }


def _completion(
    template: str, system: str | None, labels: Sequence[str], target_text: TargetText
) -> ToRecord:
    prefix = f"{system}\n\n" if system else ""
    return lambda example: {
        "prompt": prefix + _render(template, example.inputs, labels),
        # A space, which most tokenizers join to the word after it.
        "completion": f" {target_text(example)}",
    }


def _input_fields(line: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(line) if name and name != "labels"}


def _render(template: str, inputs: Mapping[str, str], labels: Sequence[str]) -> str:
    # Not str.format, which would also apply format specifications and attribute access.
    parts = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(", ".join(labels) if name == "labels" else inputs[name])
    return "".join(parts)
