"""From a file, a shipped name or a mapping to a checked recipe, and back to YAML."""

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
from prooftune.recipe.migration import migrate
from prooftune.recipe.sections import Recipe
from prooftune.recipe.validation_errors import explain_validation_error, library_option_problems
from prooftune.recipe.variants import OPTIONS_BY_KIND, QA_OPTIONS, TRAINING_OPTIONS
from prooftune.utils.progress import notify

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of files that hold rows; .json may be a recipe, since JSON is YAML."""
_ALONE = {"model": "name", "train": "path", "validation": "path", "test": "path"}
"""Sections that may be given as a single value, and the key that it stands for."""


def shipped_names() -> list[str]:
    """Names of the recipes that come with Prooftune."""
    folder = resources.files("prooftune.recipes")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def describe_shipped() -> dict[str, str]:
    """Name -> first comment line of every shipped recipe."""
    return {name: shipped_text(name).splitlines()[0].lstrip("# ") for name in shipped_names()}


def shipped_text(name: str) -> str:
    """A shipped recipe as it is written.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in shipped_names():
        raise UsageError(
            f"no recipe '{name}' ships; found {', '.join(shipped_names())}{nearest(name, shipped_names())}"
        )
    return (resources.files("prooftune.recipes") / f"{name}.yaml").read_text("utf-8")


def load(reference: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """Read a recipe.

    Args:
        reference: a YAML file, or the name of a shipped recipe.
        overrides: ``dotted.key=value`` strings; values are read as YAML.

    Returns:
        The recipe, and the folder against which its relative paths are resolved: the file's own, or
        the current one for a shipped recipe.

    Raises:
        UsageError: listing everything wrong with the recipe.
    """
    path = Path(reference)
    if path.is_file():
        text, base = _read(path), path.parent
    elif str(reference) in shipped_names():
        text, base = shipped_text(str(reference)), Path()
    else:
        here = (
            [str(found) for found in sorted(path.parent.glob("*.y*ml"))]
            if path.parent.is_dir()
            else []
        )
        raise UsageError(
            f"no recipe '{reference}': neither a file nor one of the shipped recipes "
            f"({', '.join(shipped_names())}){nearest(str(reference), [*here, *shipped_names()])}"
        )
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(_not_yaml(str(reference), error)) from None
    if not isinstance(values, dict):
        raise UsageError(
            f"{reference}: a recipe is a mapping with data: and variants:, found "
            f"{'an empty file' if values is None else type(values).__name__}"
        )
    return parse(values, str(reference), overrides), base


def _not_yaml(name: str, error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return f"{name} is not valid YAML: {error}"
    return f"{name} is not valid YAML: line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _read(path: Path) -> str:
    if path.suffix.lower() in _TABLES:
        raise UsageError(
            f"{path} is data, not a recipe: 'prooftune init {path}' writes a recipe for it"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a recipe: not UTF-8 text at byte {error.start}") from None


def parse(
    values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()
) -> Recipe:
    """Check a recipe given as a mapping, after applying ``dotted.key=value`` overrides.

    Raises:
        UsageError: listing every problem, one a line.
    """
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _override(changed, override)
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
    """The recipe as YAML, defaults included, as it is kept in the run folder and the bundle.

    Parsing it gives the same recipe: what a split's source or a variant leaves unsaid is inherited
    or means nothing for its kind, so it is left unsaid here too.
    """
    values, said = (recipe.model_dump(mode="json", exclude_unset=unset) for unset in (False, True))
    for split in ("train", "validation", "test"):
        if values["data"][split] is not None:
            values["data"][split] = said["data"][split]
    if recipe.task == "classification":
        del values["answering"], values["retrieval"]
    for name, variant in values["variants"].items():
        used = ["kind", *OPTIONS_BY_KIND[variant["kind"]]]
        if recipe.task == "classification":
            used = [key for key in used if key not in QA_OPTIONS]
        if variant["adapter"] is not None:
            used = [key for key in used if key not in TRAINING_OPTIONS]
        values["variants"][name] = {key: value for key, value in variant.items() if key in used}
        if variant.get("prompt") is not None:
            values["variants"][name]["prompt"] = said["variants"][name]["prompt"]
    _drop_unset(recipe, values)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _drop_unset(section: BaseModel, values: dict[str, Any]) -> None:
    """Leave out what is null by default: it says nothing, and there is much of it."""
    for name, field in type(section).model_fields.items():
        inner = getattr(section, name)
        if name in values and values[name] is None and field.default is None:
            del values[name]
        elif isinstance(inner, BaseModel) and isinstance(values.get(name), dict):
            _drop_unset(inner, values[name])
        elif isinstance(inner, dict):
            for key, part in inner.items():
                if isinstance(part, BaseModel) and isinstance(values.get(name, {}).get(key), dict):
                    _drop_unset(part, values[name][key])


def _override(values: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in a recipe's values."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set takes key=value, as in --set training.num_train_epochs=1; found '{override}'"
        )
    *parents, last = key.split(".")
    section = values
    for part in parents:
        inner = _opened(section.get(part), part, override)
        section[part] = inner
        section = inner
    section[last] = _value(text)


def _value(text: str) -> Any:
    """The value of an override: YAML, but a prompt such as ``Label: {text}`` or ``# {text}`` is
    meant as text."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    meant_as_text = isinstance(value, dict | list) and not text.lstrip().startswith(("{", "["))
    return text if meant_as_text or (value is None and text.lstrip().startswith("#")) else value


def _opened(found: Any, part: str, override: str) -> dict[str, Any]:
    """What stands at `part` of the recipe, as a section that takes keys."""
    if found is None:
        return {}
    if isinstance(found, str) and part in _ALONE:
        return {_ALONE[part]: found}
    if isinstance(found, list) and part == "variants":
        return {str(name): None for name in found}
    if not isinstance(found, dict):
        raise UsageError(f"--set {override}: '{part}' is a value, not a section")
    return found


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and truth values: 1.1, which PyYAML reads, takes ``1e-3`` for text and the
    label ``no`` for false, which everybody trips over."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as something else than text."""


def _add_resolvers(kind: type[_Loader] | type[_Dumper]) -> None:
    kind.yaml_implicit_resolvers = {
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


_add_resolvers(_Loader)
_add_resolvers(_Dumper)
