"""Generate the reference page of all recipe keys from the types, so that the two cannot differ.

python -m prooftune.recipe.reference > docs/recipe.md
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prooftune.recipe.base import keys_of
from prooftune.recipe.data import Source, SourceOptions
from prooftune.recipe.sections import Recipe
from prooftune.recipe.variants import Variant

_TYPE_NAMES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true, false",
}


def render_reference() -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [_HEAD, *_section_lines("recipe", Recipe), *_section_lines("variants.NAME", Variant)]
    )


def _section_lines(path: str, section: type[BaseModel]) -> Iterator[str]:
    """Yield the heading and key table of a section, then those of the sections inside it."""
    yield f"## `{path}`\n"
    description = (section.__doc__ or "").strip()
    if description and section is not Recipe:
        yield _one_line(description) + "\n"
    yield "| key | value | default | description |\n|---|---|---|---|"
    nested = []
    for name, field in keys_of(section).items():
        # Options shared by `data` and its splits are described once, under `data`.
        if issubclass(section, Source) and name in SourceOptions.model_fields:
            continue
        inner = _nested_section(field)
        anchor = f"[section](#{_anchor(path, name, inner)})" if inner else None
        yield (
            f"| `{name}` | {anchor or _value_text(field.annotation)} "
            f"| {_default_text(field, inner)} "
            f"| {_one_line(field.description or '')} |"
        )
        if inner and inner is not Source and not _in_recipe(path, inner):
            nested.append((name, inner))
    yield ""
    for name, inner in nested:
        yield from _section_lines(name if path == "recipe" else f"{path}.{name}", inner)
        if name == "data":
            yield from _section_lines("data.train, data.validation, data.test", Source)


def _in_recipe(path: str, section: type[BaseModel]) -> bool:
    """Whether a variant's section is also one of the recipe, which describes it."""
    sections = (_nested_section(field) for field in Recipe.model_fields.values())
    return path == "variants.NAME" and section in sections


def _anchor(path: str, name: str, section: type[BaseModel]) -> str:
    if name in ("train", "validation", "test"):
        return "datatrain-datavalidation-datatest"
    of_recipe = path == "recipe" or _in_recipe(path, section)
    return (name if of_recipe else f"{path}{name}").replace(".", "").lower()


def _nested_section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section type of a key, or None for a plain value or the mapping of variants."""
    options = [field.annotation, *get_args(field.annotation)]
    return next(
        (
            option
            for option in options
            if isinstance(option, type) and issubclass(option, BaseModel) and option is not Variant
        ),
        None,
    )


def _value_text(annotation: object) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return _value_text(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_value_text(a) for a in inner if a is not type(None))
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return "list"
    return _TYPE_NAMES.get(annotation, "string")


def _default_text(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    if inner or field.default in ({}, None):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _one_line(text: str) -> str:
    """Return a docstring as one line of Markdown, with bars escaped for table cells."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


_HEAD = """\
# Recipe reference

Every key of a recipe, generated from the types by `python -m prooftune.recipe.reference`. For
complete examples, see the shipped recipes: `prooftune recipes`. Where the default is empty, the
description says what happens.
"""

if __name__ == "__main__":
    print(render_reference())
