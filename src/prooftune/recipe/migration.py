"""Reads keys of other tools and of older releases: renames them where the meaning is the same, says
what replaces them elsewhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from prooftune.recipe.data import Data
from prooftune.recipe.library_fields import LIBRARY_CLASSES, library_fields
from prooftune.recipe.model import Model, Prompt
from prooftune.recipe.old_names import HINTS, OLD_NAMES, OLD_VALUES, OldName
from prooftune.recipe.sections import Recipe

_COMPONENT = "_component_"
"""TorchTune's key for the class that a section configures."""


@dataclass(slots=True)
class Migration:
    """What was found in a recipe's values.

    Attributes:
        notes: what was renamed, one sentence each.
        problems: what has to be written otherwise, one sentence each.
    """

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def migrate(values: dict[str, Any]) -> Migration:
    """Rename old keys of a recipe in place; remove those that are problems."""
    result = Migration()
    for place, section, options, known in list(_sections(values)):
        for key in list(options):
            if str(key) in known:
                _value(result, place, section, options, key)
            elif (old := _old(str(key), section)) is not None:
                _key(result, place, section, options, key, old)
    return result


def _sections(
    values: dict[str, Any],
) -> Iterator[tuple[str, str, dict[str, Any], Collection[str]]]:
    """(place, kind, content, valid keys) of every section in which old names are looked for."""
    yield "", "", values, Recipe.model_fields
    for name, model in (("model", Model), ("data", Data), ("prompt", Prompt)):
        if isinstance(values.get(name), dict):
            yield f"{name}.", name, values[name], model.model_fields
    variants = values.get("variants")
    parts = {"": values}
    if isinstance(variants, dict):
        parts |= {f"variants.{name}.": v for name, v in variants.items() if isinstance(v, dict)}
    for place, part in parts.items():
        for kind in LIBRARY_CLASSES:
            if isinstance(part.get(kind), dict) and part[kind]:
                yield f"{place}{kind}.", kind, part[kind], library_fields(kind)


def _old(key: str, section: str) -> OldName | None:
    """What replaces an unknown key; at the top of a recipe also fields of a section below."""
    if key in OLD_NAMES:
        return OLD_NAMES[key]
    if key == "output_dir":
        return OldName(reason="the run folder is runs/NAME, or what --out names")
    if section:
        return None
    kind = next((kind for kind in LIBRARY_CLASSES if key in library_fields(kind)), None)
    return OldName(f"{kind}.{key}") if kind else None


def _key(
    result: Migration,
    place: str,
    section: str,
    options: dict[str, Any],
    key: Any,
    old: OldName,
) -> None:
    value = options.pop(key)
    if isinstance(value, dict) and _COMPONENT in value:
        result.problems += _component(f"{place}{key}", value, old)
        return
    if not old.new:
        result.problems.append(f"{place}{key}: {old.reason}; remove it")
        return
    parent, _, leaf = old.new.rpartition(".")
    try:
        new = old.convert(value) if old.convert else value
    except ValueError:
        result.problems.append(
            f"{place}{key}: here it is {old.new}, which has no value that means {_shown(value)}"
        )
        return
    if parent == section and leaf not in options and parent in LIBRARY_CLASSES:
        options[leaf] = new
        result.notes.append(f"{place}{key}: {_shown(value)} is read as {leaf}: {_shown(new)}")
    elif parent == section and leaf in options:
        result.problems.append(f"{place}{key}: is an old name of {leaf}, which is given, too")
    else:
        more = f" ({old.reason})" if old.reason else ""
        result.problems.append(f"{place}{key}: write {old.new}: {_shown(new)}{more}")


def _component(place: str, value: dict[str, Any], old: OldName) -> Iterator[str]:
    """TorchTune's ``{_component_: torch.optim.AdamW, lr: 1e-4}``, key by key."""
    name = str(value[_COMPONENT])
    try:
        if not old.new:
            raise ValueError(old.reason)
        new = (old.convert or _as_it_is)(name)
        yield f"{place}.{_COMPONENT}: write {old.new}: {_shown(new)}"
    except ValueError:
        yield f"{place}.{_COMPONENT}: {old.reason or f'{name} has no counterpart'}; remove it"
    for key, inner in value.items():
        inner_old = _old(str(key), "") if key != _COMPONENT else None
        if inner_old is not None and inner_old.new:
            new = inner_old.convert(inner) if inner_old.convert else inner
            yield f"{place}.{key}: write {inner_old.new}: {_shown(new)}"
        elif key != _COMPONENT:
            reason = inner_old.reason if inner_old else "has no counterpart"
            yield f"{place}.{key}: {reason}; remove it"


def _as_it_is(value: Any) -> Any:
    return value


def _value(result: Migration, place: str, section: str, options: dict[str, Any], key: Any) -> None:
    value = options[key]
    if isinstance(value, list | dict):
        return
    if (section, key, value) in OLD_VALUES:
        options[key] = OLD_VALUES[section, key, value]
        if value not in (None, ""):
            result.notes.append(
                f"{place}{key}: {_shown(value)} is read as {_shown(options[key])}, its name now"
            )
    elif (section, key, value) in HINTS:
        del options[key]
        hint = HINTS[section, key, value]
        result.problems.append(f"{place}{key}: {_shown(value)} is not a value of it: {hint}")


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
