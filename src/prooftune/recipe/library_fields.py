"""Fields of the library classes whose names recipes use (TrainingArguments, LoraConfig …)."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LIBRARY_CLASSES = {
    "training": "transformers.TrainingArguments",
    "lora": "peft.LoraConfig",
    "quantization": "transformers.BitsAndBytesConfig",
}
"""Section -> library class whose fields are its keys."""

_SIMPLE = {bool: "true or false", int: "a whole number", float: "a number"}


@cache
def library_fields(kind: str) -> dict[str, Any]:
    """Return the name -> type of every field of the class behind a section of `LIBRARY_CLASSES`."""
    # Imported here, because these imports take seconds and most recipes need only some of them.
    if kind == "training":
        from transformers import TrainingArguments

        return _field_types(TrainingArguments)
    if kind == "lora":
        from peft import LoraConfig

        # peft declares lora_alpha as int, but accepts any number.
        # As rsLoRA and papers use it, such as 0.5.
        return {**_field_types(LoraConfig), "lora_alpha": float}
    from transformers import BitsAndBytesConfig

    parameters = inspect.signature(BitsAndBytesConfig.__init__).parameters
    return {
        # The parameters have no annotations, so their defaults tell the types.
        name: type(p.default)
        for name, p in parameters.items()
        if name not in ("self", "kwargs")
    }


def _field_types(dataclass: type) -> dict[str, Any]:
    hints = get_type_hints(dataclass)
    return {field.name: hints[field.name] for field in fields(dataclass)}


def expected(value: object, hint: Any) -> str | None:
    """Describe the valid values of a type, if a value is not one of them.

    Returns:
        The description; None if the value is valid, or if the type is neither a number, a boolean
        nor a closed set of values.
    """
    types = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    # null means the library's default; only a field that must be a number or truth value has none.
    if value is None and types - set(_SIMPLE):
        return None
    types.discard(NoneType)
    if choices := _choices(types):
        return None if value in choices else f"one of {', '.join(map(str, choices))}"
    if len(types) != 1 or not types <= set(_SIMPLE):
        return None
    (type_,) = types
    # `type` and not `isinstance`: True is an int for Python, and not for a person.
    is_valid = type(value) is type_ or (type_ is float and type(value) is int)
    return None if is_valid else _SIMPLE[type_]


def _choices(types: set[Any]) -> Sequence[object]:
    """Return the values of an enumeration or literal type; empty if other values are valid too."""
    # transformers declares "an enumeration or its name" so.
    types = types - {str}
    if len(types) != 1:
        return ()
    (type_,) = types
    if get_origin(type_) is Literal:
        return get_args(type_)
    if isinstance(type_, type) and issubclass(type_, enum.Enum):
        return [member.value for member in type_]
    return ()
