"""``prooftune data export --to TOOL``: the data and the config that trains the same elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml

from prooftune.bridges import axolotl_writer, llama_factory_writer, torchtune_writer
from prooftune.bridges.plan import TrainingPlan, training_plan
from prooftune.data.export import write_records
from prooftune.recipe import Recipe
from prooftune.tasks.task import task_for
from prooftune.types import Study
from prooftune.utils.files import write_text

ExportTool = Literal["torchtune", "axolotl", "llama-factory"]
EXPORT_TOOLS: tuple[ExportTool, ...] = ("torchtune", "axolotl", "llama-factory")

_WRITERS: dict[ExportTool, Callable[[TrainingPlan, Path], dict[str, dict[str, Any]]]] = {
    "axolotl": axolotl_writer.write,
    "llama-factory": llama_factory_writer.write,
    "torchtune": torchtune_writer.write,
}
"""Tool -> function that returns the content of its files (name -> YAML or JSON)."""

_COMMANDS = {
    "axolotl": "axolotl train config.yaml",
    "llama-factory": "llamafactory-cli train config.yaml",
    "torchtune": torchtune_writer.COMMAND,
}


def export_for_tool(
    study: Study, recipe: Recipe, tool: ExportTool, folder: Path, variant: str | None = None
) -> tuple[list[Path], TrainingPlan]:
    """Write the data and the config with which another tool trains the same.

    Args:
        study: the examples, split and audited.
        recipe: the recipe.
        tool: one of `EXPORT_TOOLS`.
        folder: output folder: ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and
            ``config.yaml``; LLaMA-Factory has ``dataset_info.json`` too.
        variant: the tuned variant. Default: the first.

    Returns:
        The files written, and the plan with the differences that remain.

    Raises:
        UsageError: the recipe trains nothing that the tool can train.
    """
    plan = training_plan(recipe, study, variant)
    files = _WRITERS[tool](plan, folder)
    # LLaMA-Factory's template `empty` adds no end token, so the completions bring it.
    stop = plan.family.stop if tool == "llama-factory" and plan.family else ""
    written = write_records(
        study,
        folder,
        "chat" if plan.chat else "completion",
        plan.template,
        plan.system,
        task_for(recipe).target_text,
        suffix="" if plan.chat else stop,
    )
    # JSON has no comments, so only YAML files get the header.
    for name, content in files.items():
        path = folder / name
        write_text(
            path, _header(plan, tool) + _dump(content) if name.endswith("yaml") else _json(content)
        )
        written.append(path)
    return written, plan


def _header(plan: TrainingPlan, tool: ExportTool) -> str:
    lines = [
        f"# {plan.name}, written by 'prooftune data export --to {tool}'. In this folder run:",
        f"#   {_COMMANDS[tool]}",
    ]
    if plan.differences:
        lines += ["#", "# What differs from Prooftune:"]
        lines += [f"#   {sentence}" for sentence in plan.differences]
    return "\n".join(lines) + "\n"


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _json(content: dict[str, Any]) -> str:
    import json

    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
