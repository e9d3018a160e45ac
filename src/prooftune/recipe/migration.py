"""Migrate keys of other tools and of older releases.

A key whose meaning is the same is renamed; for any other old key, the error says what replaces it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from prooftune.recipe.data import Data
from prooftune.recipe.library_fields import LIBRARY_CLASSES, library_fields
from prooftune.recipe.model import Model, Prompt
from prooftune.recipe.old_names import OLD_NAMES, OldName
from prooftune.recipe.old_values import HINTS, OLD_VALUES
from prooftune.recipe.sections import Recipe

_COMPONENT = "_component_"
"""TorchTune's key for the class that a section configures."""


@dataclass(slots=True)
class Migration:
    """The result of migrating a recipe.

    Attributes:
        notes: renamed keys and values, one sentence each.
        problems: old keys that the user has to replace, one sentence each.
    """

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Section:
    """A section in which old names are looked up.

    Attributes:
        path: dotted path with a final dot; empty for the top of the recipe.
        kind: name of the section's type: empty, ``model``, ``data``, ``training`` …
        options: content of the section; migration changes it.
        valid_keys: current keys.
    """

    path: str
    kind: str
    options: dict[str, Any]
    valid_keys: Collection[str]


def migrate(values: dict[str, Any]) -> Migration:
    """Rename the old keys of a recipe in place, and remove those that are problems."""
    result = Migration()
    # A list, since migration adds and removes keys on the way.
    for section in list(_sections(values)):
        # Keys are removed on the way.
        for key in list(section.options):
            if str(key) in section.valid_keys:
                _migrate_value(result, section, key)
            elif (old := _find_old_name(str(key), section.kind)) is not None:
                _migrate_key(result, section, key, old)
    return result


def _sections(values: dict[str, Any]) -> Iterator[_Section]:
    yield _Section("", "", values, Recipe.model_fields)
    for name, model in (("model", Model), ("data", Data), ("prompt", Prompt)):
        if isinstance(values.get(name), dict):
            yield _Section(f"{name}.", name, values[name], model.model_fields)
    variants = values.get("variants")
    # Variants have their own training, lora and quantization.
    parents = {"": values}
    if isinstance(variants, dict):
        parents |= {f"variants.{name}.": v for name, v in variants.items() if isinstance(v, dict)}
    for path, parent in parents.items():
        for kind in LIBRARY_CLASSES:
            if isinstance(parent.get(kind), dict) and parent[kind]:
                yield _Section(f"{path}{kind}.", kind, parent[kind], library_fields(kind))


def key_of(name: str) -> str | None:
    """The dotted recipe key of a name: ``epochs`` -> ``training.num_train_epochs``; None if it is
    no key, or an old one without a replacement."""
    if name in Recipe.model_fields:
        return name
    old = _find_old_name(name, "")
    return old.new if old is not None and old.new else None


def _find_old_name(key: str, kind: str) -> OldName | None:
    """Return the replacement of an unknown key.

    At the top of the recipe, this includes fields that belong to one of the library sections.
    """
    # First, since old names may be those of another section's fields now.
    if key in OLD_NAMES:
        return OLD_NAMES[key]
    if key == "output_dir":
        return OldName(reason="the run folder is runs/NAME, or set by --out")
    if kind:
        return None
    library = next((name for name in LIBRARY_CLASSES if key in library_fields(name)), None)
    return OldName(f"{library}.{key}") if library else None


def _migrate_key(result: Migration, section: _Section, key: str, old: OldName) -> None:
    value = section.options.pop(key)
    path = f"{section.path}{key}"
    # TorchTune: `optimizer: {_component_: torch.optim.AdamW, lr: 2e-5}`.
    if isinstance(value, dict) and _COMPONENT in value:
        result.problems += _component_problems(path, value, old)
        return
    if not old.new:
        result.problems.append(f"{path}: {old.reason}; remove it")
        return
    parent, _, leaf = old.new.rpartition(".")
    try:
        new = old.convert(value) if old.convert else value
    except ValueError:
        result.problems.append(
            f"{path}: replaced by {old.new}, which has no equivalent of {_shown(value)}"
        )
        return
    if parent == section.kind and leaf not in section.options and parent in LIBRARY_CLASSES:
        section.options[leaf] = new
        result.notes.append(f"{path}: {_shown(value)} is read as {leaf}: {_shown(new)}")
    # Scripts of several versions give both names with the same value.
    elif parent == section.kind and section.options.get(leaf) == new:
        result.notes.append(f"{path}: {_shown(value)} is the same as {leaf}: {_shown(new)}")
    elif parent == section.kind and leaf in section.options:
        # The recipe's file may have the new name and the command line the old one.
        result.problems.append(
            f"{path}: old name of {leaf}, which is set too; remove one, or on the command line use "
            f"--set {section.path}{leaf}={_shown(new)}"
        )
    else:
        reason = f" ({old.reason})" if old.reason else ""
        result.problems.append(f"{path}: write {old.new}: {_shown(new)}{reason}")


def _component_problems(path: str, value: dict[str, Any], old: OldName) -> Iterator[str]:
    """Describe the replacement of TorchTune's ``{_component_: torch.optim.AdamW, lr: 1e-4}``."""
    name = str(value[_COMPONENT])
    try:
        if not old.new:
            raise ValueError(old.reason)
        new = old.convert(name) if old.convert else name
        yield f"{path}.{_COMPONENT}: write {old.new}: {_shown(new)}"
    except ValueError:
        yield f"{path}.{_COMPONENT}: {old.reason or f'{name} has no equivalent'}; remove it"
    for key, inner in value.items():
        inner_old = _find_old_name(str(key), "") if key != _COMPONENT else None
        if inner_old is not None and inner_old.new:
            new = _converted(inner_old, inner)
            yield f"{path}.{key}: write {inner_old.new}: {_shown(new)}"
        elif key != _COMPONENT:
            reason = inner_old.reason if inner_old else "no equivalent"
            yield f"{path}.{key}: {reason}; remove it"


def _migrate_value(result: Migration, section: _Section, key: str) -> None:
    value = section.options[key]
    path = f"{section.path}{key}"
    if isinstance(value, list | dict):  # not hashable, and never an old value
        return
    if (section.kind, key, value) in OLD_VALUES:
        section.options[key] = new = OLD_VALUES[section.kind, key, value]
        # `report_to: null` means none, which no note needs to say.
        if value not in (None, ""):
            result.notes.append(f"{path}: {_shown(value)} is read as {_shown(new)}, its new name")
    elif (section.kind, key, value) in HINTS:
        del section.options[key]
        hint = HINTS[section.kind, key, value]
        result.problems.append(f"{path}: {_shown(value)} is not a valid value: {hint}")


def _converted(old: OldName, value: object) -> object:
    """Return the new value, or the old one if there is no equivalent."""
    try:
        return old.convert(value) if old.convert else value
    except ValueError:
        return value


def _shown(value: object) -> str:
    """Return a value as a recipe has it, shortened to 60 characters."""
    plain = isinstance(value, str) and _is_plain(value)
    text = str(value) if plain else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_plain(text: str) -> bool:
    """Whether YAML reads a text as itself without quotes: ``{text} is`` begins a mapping."""
    try:
        return bool(
            yaml.safe_load(text) == text and yaml.safe_load(f"key: {text}") == {"key": text}
        )
    except yaml.YAMLError:
        return False
