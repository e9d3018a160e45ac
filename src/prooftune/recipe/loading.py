"""Load a recipe from a file, a shipped name or a mapping, validate it, and write it as YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prooftune.errors import UsageError, nearest
from prooftune.recipe.base import key_of
from prooftune.recipe.migration import migrate
from prooftune.recipe.sections import Recipe
from prooftune.recipe.validation_errors import explain_validation_error, library_option_problems
from prooftune.recipe.variant_options import (
    INHERITED_OPTIONS,
    LANGUAGE_OPTIONS,
    QA_OPTIONS,
    TRAINING_OPTIONS,
)
from prooftune.recipe.variants import by_name, option_keys
from prooftune.utils.progress import notify

_DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of data files. Not .json, which can be a recipe, since JSON is YAML."""
_SHORTHAND_KEYS = {"model": "name", "train": "path", "validation": "path", "test": "path"}
"""Sections that can be written as a single value, and the key that holds this value."""


def shipped_names() -> list[str]:
    """Return the names of the recipes that ship with Prooftune, sorted."""
    folder = resources.files("prooftune.recipes")
    return sorted(
        # The folder is a package and has an __init__.py, too.
        f.name.removesuffix(".yaml")
        for f in folder.iterdir()
        if f.name.endswith(".yaml")
    )


def describe_shipped() -> dict[str, str]:
    """Return the name -> first comment line of every shipped recipe."""
    return {name: shipped_text(name).splitlines()[0].lstrip("# ") for name in shipped_names()}


def shipped_text(name: str) -> str:
    """Return the YAML text of a shipped recipe, comments included.

    Raises:
        UsageError: no shipped recipe has this name.
    """
    if name not in shipped_names():
        raise UsageError(
            f"no shipped recipe is named '{name}'; available: {', '.join(shipped_names())}"
            f"{nearest(name, shipped_names())}"
        )
    return (resources.files("prooftune.recipes") / f"{name}.yaml").read_text("utf-8")


def load(reference: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Load and validate a recipe.

    Args:
        reference: a YAML file, or the name of a shipped recipe.
        overrides: ``dotted.key=value`` strings; values are parsed as YAML.

    Returns:
        The recipe, and the base folder of its relative paths: the folder of the file, or the
        current folder for a shipped recipe.

    Raises:
        UsageError: the recipe is invalid; the message lists every problem.
    """
    path = Path(reference)
    # A file first: it may be named like a shipped recipe.
    if path.is_file():
        text, base = _read_recipe_file(path), path.parent
    elif str(reference) in shipped_names():
        text, base = shipped_text(str(reference)), Path()
    else:
        # A path that is no folder has no matches.
        local = [str(file) for file in sorted(path.parent.glob("*.y*ml"))]
        raise UsageError(
            f"recipe '{reference}' not found: neither a file nor a shipped recipe "
            f"({', '.join(shipped_names())}){nearest(str(reference), [*local, *shipped_names()])}"
        )
    try:
        values = yaml.load(text, Loader=RecipeLoader)
    except yaml.YAMLError as error:
        raise UsageError(_yaml_error_message(str(reference), error)) from None
    if not isinstance(values, dict):
        raise UsageError(
            f"{reference}: expected a mapping with the keys data and variants, found "
            f"{'an empty file' if values is None else type(values).__name__}"
        )
    return parse(values, str(reference), overrides), base


def _yaml_error_message(name: str, error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return f"{name} is not valid YAML: {error}"
    return f"{name} is not valid YAML: line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _read_recipe_file(path: Path) -> str:
    if path.suffix.lower() in _DATA_SUFFIXES:
        raise UsageError(
            f"{path} is a data file, not a recipe; write a recipe for it with 'prooftune init "
            f"{path}'"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a recipe: not valid UTF-8 at byte {error.start}") from None


def parse(
    values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()
) -> Recipe:
    """Validate a recipe given as a mapping, after applying ``dotted.key=value`` overrides.

    Args:
        values: the recipe; not modified.
        where: name of the recipe in error messages.
        overrides: as in `load`.

    Raises:
        UsageError: the recipe is invalid; the message lists every problem, one per line.
    """
    # Migration changes the mapping in place, and it is the caller's.
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(changed, override)
    # After the overrides, which may use old names; before validation, which knows only the new
    # ones.
    migration = migrate(changed)
    problems = migration.problems + library_option_problems(changed)
    try:
        recipe = Recipe.model_validate(changed)
    except ValidationError as error:
        problems = explain_validation_error(error) + problems
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise UsageError(
            f"{where}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found\n{lines}"
        )
    for note in migration.notes:
        notify(f"{where}: {note}", "yellow")
    return recipe


def dump(recipe: Recipe) -> str:
    """Return the recipe as YAML, defaults included, as stored in run folders and bundles.

    Parsing the result gives the same recipe. Options that a source or variant inherits, or that do
    not apply to the kind of variant, are left out.
    """
    values = recipe.model_dump(mode="json", by_alias=True)
    # What a split or variant leaves out, it inherits: written with its defaults, it would override
    # the recipe's.
    explicit = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for split in ("train", "validation", "test"):
        if values["data"][split] is not None:
            values["data"][split] = explicit["data"][split]
    if recipe.has_labels:
        del values["answering"], values["retrieval"]
    for name, variant in values["variants"].items():
        used = option_keys(variant["kind"])
        if recipe.has_labels:
            used = [key for key in used if key not in QA_OPTIONS]
        if variant["adapter"] is not None:
            unused = (*TRAINING_OPTIONS, *LANGUAGE_OPTIONS, "from")
            used = [key for key in used if key not in unused]
        if variant["from"] is not None:
            used = [key for key in used if key not in INHERITED_OPTIONS]
        # Options of other kinds would be refused when the dump is read.
        values["variants"][name] = {key: value for key, value in variant.items() if key in used}
        for section in ("prompt", "model"):
            if variant.get(section) is not None:
                values["variants"][name][section] = explicit["variants"][name][section]
        model = values["variants"][name].get("model")
        # The short form that people write.
        if isinstance(model, dict) and set(model) == {"name"}:
            values["variants"][name]["model"] = model["name"]
    _drop_default_nulls(recipe, values)
    # The order of the types, which is that of the reference.
    return yaml.dump(values, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=100)


def _drop_default_nulls(section: BaseModel, values: dict[str, Any]) -> None:
    """Remove keys whose value is null by default: they would triple the length of the file."""
    for name, field in type(section).model_fields.items():
        inner, key = getattr(section, name), key_of(name, field)
        if key in values and values[key] is None and field.default is None:
            del values[key]
        elif isinstance(inner, BaseModel) and isinstance(values.get(name), dict):
            _drop_default_nulls(inner, values[name])
        elif isinstance(inner, dict):
            for key, item in inner.items():
                if isinstance(item, BaseModel) and isinstance(values.get(name, {}).get(key), dict):
                    _drop_default_nulls(item, values[name][key])


_TEXT_KEYS = ("template", "system")
"""Keys whose values are texts."""


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in a recipe's values."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set expects key=value, as in --set training.num_train_epochs=1; found '{override}'"
        )
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section[parent] = _as_section(section.get(parent), parent, override)
        section = section[parent]
    value = _parse_override_value(text)
    # YAML reads the template {text} as a mapping.
    is_text = last in _TEXT_KEYS and not isinstance(value, str | None)
    section[last] = text if is_text else value


def _parse_override_value(text: str) -> Any:
    """Parse the value of an override as YAML, but keep prompts as text.

    YAML would read ``Label: {text}`` as a mapping and ``# {text}`` as a comment.
    """
    try:
        value = yaml.load(text, Loader=RecipeLoader)
    except yaml.YAMLError:
        return text
    is_prompt = isinstance(value, dict | list) and not text.lstrip().startswith(("{", "["))
    is_heading = value is None and text.lstrip().startswith("#")
    return text if is_prompt or is_heading else value


def _as_section(value: object, key: str, override: str) -> dict[str, Any]:
    """Return the value of a key as a mapping into which further keys can be set."""
    if value is None:
        return {}
    if isinstance(value, str) and key in _SHORTHAND_KEYS:
        return {_SHORTHAND_KEYS[key]: value}
    if key == "variants":
        value = by_name(value)
    if not isinstance(value, dict):
        raise UsageError(f"--set {override}: '{key}' is a single value, not a section")
    return value


class RecipeLoader(yaml.SafeLoader):
    """Loader with the numbers and booleans of YAML 1.2.

    PyYAML implements YAML 1.1, which reads ``1e-3`` as text and the label ``no`` as false.
    """


class RecipeDumper(yaml.SafeDumper):
    """Dumper that quotes text which `RecipeLoader` would read as another type."""


def _use_yaml_1_2_scalars(kind: type[RecipeLoader] | type[RecipeDumper]) -> None:
    kind.yaml_implicit_resolvers = {
        # A copy: the table belongs to the class from which these loaders inherit.
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in kind.yaml_implicit_resolvers.items()
    }
    kind.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


_use_yaml_1_2_scalars(RecipeLoader)
_use_yaml_1_2_scalars(RecipeDumper)
