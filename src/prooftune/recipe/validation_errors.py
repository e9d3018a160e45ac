"""Validation errors of a recipe in words: where, what was found, and the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prooftune.errors import nearest
from prooftune.recipe.base import keys_of
from prooftune.recipe.library_fields import LIBRARY_CLASSES, expected, library_fields
from prooftune.recipe.sections import Recipe
from prooftune.recipe.variants import VARIANT_KINDS, Variant


def explain_validation_error(error: ValidationError) -> list[str]:
    """Return one sentence per validation error, without repetitions."""
    return list(
        # A value that fits no member of a union has one error for each member.
        dict.fromkeys(message for details in error.errors() for message in _messages(details))
    )


def _messages(error: ErrorDetails) -> list[str]:
    keys = _key_path(error["loc"])
    path = ".".join(keys)
    if error["type"] == "extra_forbidden":
        near = nearest(keys[-1], _valid_keys(keys[:-1]))
        return [f"{path}: unknown key{near or _elsewhere(keys[-1])}"]
    if error["type"] in ("literal_error", "enum"):
        choices = re.findall(r"'((?:[^'\\]|\\.)*)'", error["ctx"]["expected"])
        return [
            f"{path}: should be {'one of ' * (len(choices) > 1)}{', '.join(choices)}, found "
            f"{_shown(error['input'])}"
            f"{nearest(str(error['input']), choices)}"
        ]
    if error["type"] == "missing":
        kinds = (
            f": one of {', '.join(VARIANT_KINDS)}{nearest(keys[-2], VARIANT_KINDS)}"
            if keys[-1] == "kind"
            else ""
        )
        return [f"{path}: required{kinds}"]
    if error["type"] == "string_pattern_mismatch":
        return [
            f"{path}: {_shown(error['input'])} is not a valid name: use letters, digits, '.', '_', "
            "'+' and '-', and start with a letter or digit"
        ]
    if error["type"] == "value_error":
        # Raised by our own validators, which report several problems as several lines.
        return [
            f"{path}: {line}" if path else line for line in str(error["ctx"]["error"]).splitlines()
        ]
    if error["type"] == "model_type":
        return [f"{path}: should be a section with keys, found {_shown(error['input'])}"]
    return [f"{path}: {error['msg']}, found {_shown(error['input'])}"]


def _shown(value: object) -> str:
    """Return a value as written in a recipe, shortened to 60 characters."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _key_path(location: Sequence[str | int]) -> list[str]:
    """Return the keys on the path to a value.

    Pydantic adds type names for union members; they are left out.
    """
    return [
        str(part)
        for part in location
        # `data.train.path.list[str].0`: the type is no key.
        if not (isinstance(part, str) and (part in ("str", "float", "int") or "[" in part))
    ]


def _valid_keys(path: Sequence[str]) -> list[str]:
    """Return the valid keys of the section at a path in the recipe."""
    in_variant = bool(path) and path[0] == "variants"
    section: type[BaseModel] = Variant if in_variant else Recipe
    # `variants.NAME.…`: the name is the user's and in no model.
    for key in path[2:] if in_variant else path:
        fields = keys_of(section)
        if key not in fields:
            continue  # a name of the user's, such as that of a hyperparameter
        annotation = fields[key].annotation
        # `Prompt | None` and the like: the member that is a section.
        section = _sections_of(annotation)[0]
    return list(keys_of(section))


def _sections_of(annotation: object) -> list[type[BaseModel]]:
    """The members of a type that are sections of a recipe."""
    return [
        option
        for option in (annotation, *get_args(annotation))
        if isinstance(option, type) and issubclass(option, BaseModel)
    ]


def _elsewhere(key: str) -> str:
    """`` (it is a key of data: data.slices)`` for a key of one other section, or nothing."""
    sections = [name for name, field in keys_of(Recipe).items() if _sections_of(field.annotation)]
    owners = [name for name in sections if key in _valid_keys([name])]
    return f" (it is a key of {owners[0]}: {owners[0]}.{key})" if len(owners) == 1 else ""


def library_option_problems(values: Mapping[str, Any]) -> list[str]:
    """Check the keys and simple values of sections that configure a library class.

    Returns:
        One sentence per unknown key or invalid value.
    """
    problems = []
    for path, kind, options in _library_sections(values):
        valid_fields = library_fields(kind)
        for key, value in options.items():
            if key not in valid_fields:
                problems.append(
                    f"{path}.{key}: not a field of {LIBRARY_CLASSES[kind]}"
                    f"{nearest(str(key), valid_fields)}"
                )
            elif description := expected(value, valid_fields[key]):
                choices = description.removeprefix("one of ").split(", ")
                problems.append(
                    f"{path}.{key}: should be {description}, found {_shown(value)}"
                    f"{nearest(str(value), choices)}"
                )
    return problems


def _library_sections(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the path, kind and content of every section that configures a library class."""
    sections: dict[str, Any] = {"": values}
    variants = values.get("variants")
    if isinstance(variants, Mapping):
        sections |= {f"variants.{name}.": options for name, options in variants.items()}
    for path, section in sections.items():
        for kind in LIBRARY_CLASSES:
            options = section.get(kind) if isinstance(section, Mapping) else None
            if isinstance(options, Mapping) and options:
                yield f"{path}{kind}", kind, options
