"""``prooftune init --from``: a config of another fine-tuning tool -> a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prooftune.bridges import axolotl, llama_factory, torchtune, trl
from prooftune.bridges.foreign_config import ForeignConfig
from prooftune.errors import UsageError
from prooftune.recipe import loading
from prooftune.utils.files import write_text

TOOLS = ("torchtune", "axolotl", "llama-factory", "trl")
TOOL_NAMES = {
    "torchtune": "TorchTune",
    "axolotl": "Axolotl",
    "llama-factory": "LLaMA-Factory",
    "trl": "TRL",
}


@dataclass(frozen=True, slots=True)
class ImportedRecipe:
    """A recipe that was read from another tool's config.

    Attributes:
        tool: one of `TOOLS`.
        text: the recipe as YAML; its comments name what was dropped.
        taken: the keys that became options, one sentence each.
        dropped: the keys without a counterpart, one sentence each.
        to_do: what the user has to set before it runs, one sentence each.
    """

    tool: str
    text: str
    taken: list[str]
    dropped: list[str]
    to_do: list[str]


def init_from_config(
    config: Path, out: Path | None = None, *, force: bool = False
) -> tuple[Path, ImportedRecipe]:
    """Write a recipe for another tool's config.

    Args:
        config: its YAML file.
        out: the recipe file. Default: the config's name in the working directory.
        force: overwrite an existing recipe.

    Returns:
        The file, and what was read.

    Raises:
        UsageError: the config cannot be read, or the recipe file exists.
    """
    target = out if out is not None else Path(f"{config.stem}.yaml")
    # Started in the config's own folder, the default name would overwrite the config.
    if target.resolve() == config.resolve():
        target = target.with_name(f"{config.stem}-recipe.yaml")
    if target.exists() and not force:
        raise UsageError(f"{target} exists; choose another name (--out), or overwrite it (--force)")
    imported = import_config(config, target)
    write_text(target, imported.text)
    return target, imported


def import_config(path: Path, recipe: Path) -> ImportedRecipe:
    """Read a config of TorchTune, Axolotl, LLaMA-Factory, TRL or the alignment-handbook.

    Args:
        path: the YAML file.
        recipe: where the recipe will be written; names the study.

    Raises:
        UsageError: the file is no such config, or its training is not supervised.
    """
    values = _load(path)
    tool = detect_tool(values)
    if tool is None:
        raise UsageError(
            f"{path} is no config that is known: neither TorchTune (model._component_), Axolotl "
            "(base_model and datasets), LLaMA-Factory (model_name_or_path with stage, template or "
            "finetuning_type) nor TRL (model_name_or_path and dataset_name)"
        )
    # Before anything is read, since `take` removes keys.
    empty = [key for key, value in values.items() if value is None]
    config = ForeignConfig(values)
    config.recipe["name"] = _study_name(recipe)
    if tool == "torchtune":
        torchtune.read(config)
    elif tool == "axolotl":
        axolotl.read(config)
    elif tool == "llama-factory":
        llama_factory.read(config, path.parent)
    else:
        trl.read(config)
    if empty:
        config.dropped.append(f"without a value: {', '.join(empty)}")
    parsed = _clean(config)
    return ImportedRecipe(
        tool, _recipe_text(path, tool, config, parsed), config.taken, config.dropped, config.to_do
    )


def detect_tool(values: Mapping[str, Any]) -> str | None:
    """The tool whose config this is; None if it is none of `TOOLS`."""
    for tool, matches in (
        ("torchtune", torchtune.matches),
        ("axolotl", axolotl.matches),
        ("llama-factory", llama_factory.matches),
        ("trl", trl.matches),
    ):
        if matches(values):
            return tool
    return None


def _load(path: Path) -> dict[str, Any]:
    try:
        # With numbers of YAML 1.2, in which 1e-4 is a number; PyYAML's own loader reads it as text.
        values = yaml.load(path.read_text("utf-8"), Loader=loading.RecipeLoader)
    except FileNotFoundError:
        raise UsageError(f"{path} not found") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a mapping of options")
    return {str(key): value for key, value in values.items()}


def _study_name(recipe: Path) -> str:
    # The name of a study names its run folder.
    allowed = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in recipe.stem
    )
    return allowed.strip("-._") or "study"


_ORDER = ("name", "task", "seed", "data", "model", "quantization", "prompt", "answering", "lora")


def _clean(config: ForeignConfig) -> dict[str, Any]:
    """Order the sections, and check that the recipe is valid.

    Options that full fine-tuning does not have are dropped with a sentence.
    """
    recipe = config.recipe
    if recipe["variants"]["tuned"].get("method") == "full":
        for section in ("lora", "quantization"):
            if recipe.pop(section, None):
                config.dropped.append(f"{section}: all weights are trained, without adapters")
    rest = [key for key in recipe if key not in _ORDER and key != "variants"]
    ordered = {key: recipe[key] for key in (*_ORDER, *rest, "variants") if key in recipe}
    loading.parse(ordered, "the recipe read from this config")
    return ordered


def _recipe_text(path: Path, tool: str, config: ForeignConfig, recipe: Mapping[str, Any]) -> str:
    lines = [f"# Read from {path.name} ({TOOL_NAMES[tool]})."]
    if config.to_do:
        lines += ["#", "# To do:", *(f"#   {_one_line(entry)}" for entry in config.to_do)]
    if config.dropped:
        lines += [
            "#",
            "# Without a counterpart, or not needed:",
            *(f"#   {_one_line(entry)}" for entry in config.dropped),
        ]
    body = yaml.dump(
        dict(recipe), Dumper=_ReadableDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return "\n".join(lines) + "\n" + body


class _ReadableDumper(loading.RecipeDumper):
    """Writes texts of several lines as they are, not as quoted paragraphs."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_ReadableDumper.add_representer(str, _represent_text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
