"""What is wrong with a recipe, in words: where it is, what was found, and the nearest known word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from prooftune.errors import nearest
from prooftune.recipe.library_fields import LIBRARY_CLASSES, expected, library_fields
from prooftune.recipe.sections import Recipe
from prooftune.recipe.variants import VARIANT_KINDS, Variant


def explain_validation_error(error: ValidationError) -> list[str]:
    """One sentence for every place of the recipe that is wrong."""
    return list(
        dict.fromkeys(sentence for found in error.errors() for sentence in _sentences(found))
    )


def _sentences(error: Any) -> list[str]:
    location = _location(error["loc"])
    place = ".".join(location)
    if error["type"] == "extra_forbidden":
        return [f"{place}: unknown key{nearest(location[-1], _known_keys(location[:-1]))}"]
    if error["type"] == "missing":
        kinds = (
            f": one of {', '.join(VARIANT_KINDS)}{nearest(location[-2], VARIANT_KINDS)}"
            if location[-1] == "kind"
            else ""
        )
        return [f"{place}: required{kinds}"]
    if error["type"] == "string_pattern_mismatch":
        return [
            f"{place}: {_shown(error['input'])} is no good as a name: letters, digits, '.', '_' "
            "and '-' only"
        ]
    if error["type"] == "value_error":
        # Ours, from a validator, which may have found several things; each stands on its own line.
        return [
            f"{place}: {line}" if place else line
            for line in str(error["ctx"]["error"]).splitlines()
        ]
    if error["type"] == "model_type":
        return [f"{place}: should be a section with keys, found {_shown(error['input'])}"]
    return [f"{place}: {error['msg']}, found {_shown(error['input'])}"]


def _shown(value: Any) -> str:
    """A value as it may stand in a recipe, cut where it is long."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _location(location: Sequence[str | int]) -> list[str]:
    """The keys that lead to a place, without the names of types that pydantic adds where several
    are possible."""
    return [
        str(part)
        for part in location
        if not (isinstance(part, str) and (part in ("str", "float", "int") or "[" in part))
    ]


def _known_keys(location: Sequence[str]) -> list[str]:
    """Keys of the section at a place in the recipe."""
    of_variant = bool(location) and location[0] == "variants"
    section: type[BaseModel] = Variant if of_variant else Recipe
    for part in location[2:] if of_variant else location:
        annotation = section.model_fields[part].annotation
        section = next(
            o
            for o in (annotation, *get_args(annotation))
            if isinstance(o, type) and issubclass(o, BaseModel)
        )
    return list(section.model_fields)


def library_option_problems(values: Mapping[str, Any]) -> list[str]:
    """Check what belongs to other libraries' classes against those classes: keys, and values that
    are numbers or switches."""
    problems = []
    for place, kind, options in _library_sections(values):
        known = library_fields(kind)
        for key, value in options.items():
            if key not in known:
                problems.append(
                    f"{place}.{key}: not a field of {LIBRARY_CLASSES[kind]}{nearest(str(key), known)}"
                )
            elif needed := expected(value, known[key]):
                words = needed.removeprefix("one of ").split(", ")
                problems.append(
                    f"{place}.{key}: should be {needed}, found {_shown(value)}"
                    f"{nearest(str(value), words)}"
                )
    return problems


def _library_sections(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Place, kind and content of every section whose keys are another library's."""
    sections: dict[str, Any] = {"": values}
    variants = values.get("variants")
    if isinstance(variants, Mapping):
        sections |= {f"variants.{name}.": options for name, options in variants.items()}
    for place, section in sections.items():
        for kind in LIBRARY_CLASSES:
            options = section.get(kind) if isinstance(section, Mapping) else None
            if isinstance(options, Mapping) and options:
                yield f"{place}{kind}", kind, options
