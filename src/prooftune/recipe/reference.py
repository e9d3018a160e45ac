"""Every key of a recipe as a Markdown page, made from the types so that the two cannot differ.

python -m prooftune.recipe.reference > docs/recipe.md
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prooftune.recipe.data import Source, SourceOptions
from prooftune.recipe.sections import Recipe
from prooftune.recipe.variants import Variant


def render_reference() -> str:
    """The page."""
    return "\n".join([_HEAD, *_section("recipe", Recipe), *_section("variants.NAME", Variant)])


def _section(place: str, section: type[BaseModel]) -> Iterator[str]:
    yield f"## `{place}`\n"
    said = (section.__doc__ or "").strip()
    if said and section is not Recipe:
        yield _inline(said) + "\n"
    yield "| key | value | default | |\n|---|---|---|---|"
    inner = []
    for name, field in section.model_fields.items():
        part = _part(field)
        # What stands under `data` may stand under each of its splits, and is described once.
        if (
            section is not SourceOptions
            and issubclass(section, Source)
            and name in SourceOptions.model_fields
        ):
            continue
        yield (
            f"| `{name}` | "
            f"{'[section](#' + _anchor(place, name) + ')' if part else _values(field.annotation)} "
            f"| {_default(field, part)} | {_inline(field.description or '')} |"
        )
        if part and part is not Source and place != "variants.NAME":
            inner.append((name, part))
    yield ""
    for name, part in inner:
        yield from _section(_inside(place, name), part)
        if name == "data":
            yield from _section("data.train, data.validation, data.test", Source)


def _inside(place: str, name: str) -> str:
    return name if place == "recipe" else f"{place}.{name}"


def _anchor(place: str, name: str) -> str:
    if name in ("train", "validation", "test"):
        return "datatrain-datavalidation-datatest"
    return (name if place in ("recipe", "variants.NAME") else f"{place}{name}").replace(".", "")


def _part(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a key holds, if it holds one."""
    options = [field.annotation, *get_args(field.annotation)]
    return next(
        (
            o
            for o in options
            if isinstance(o, type) and issubclass(o, BaseModel) and o is not Variant
        ),
        None,
    )


def _values(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{v}`" for v in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_values(a) for a in inner if a is not type(None))
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return "list"
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true, false"}
    return names.get(annotation, "text")


def _default(field: FieldInfo, part: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    if part or field.default in ({}, None):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _inline(text: str) -> str:
    """A docstring as one line of Markdown: a bar would end the table's cell."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


_HEAD = """\
# Every key of a recipe

Made from the types by `python -m prooftune.recipe.reference`. Shipped recipes are the best examples: `prooftune recipes`.
An empty default means: nothing, or as the description says.
"""

if __name__ == "__main__":
    print(render_reference())
