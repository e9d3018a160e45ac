"""Fields of the other libraries' classes whose names recipes use."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LIBRARY_CLASSES = {
    "training": "transformers.TrainingArguments",
    "lora": "peft.LoraConfig",
    "quantization": "transformers.BitsAndBytesConfig",
}
"""Sections whose keys are the fields of another library's class."""

_SIMPLE = {bool: "true or false", int: "a whole number", float: "a number"}


@cache
def library_fields(kind: str) -> dict[str, Any]:
    """Name -> type of every field of the class behind a section of `LIBRARY_CLASSES`."""
    # Imported here: reading a recipe without these sections must not take seconds.
    if kind == "training":
        from transformers import TrainingArguments

        return _types(TrainingArguments)
    if kind == "lora":
        from peft import LoraConfig

        # Any number will do as lora_alpha, and some people's are not whole ones.
        return {**_types(LoraConfig), "lora_alpha": float}
    from transformers import BitsAndBytesConfig

    parameters = inspect.signature(BitsAndBytesConfig.__init__).parameters
    return {
        name: type(p.default) for name, p in parameters.items() if name not in ("self", "kwargs")
    }


def _types(settings: Any) -> dict[str, Any]:
    hints = get_type_hints(settings)
    return {name: hints[name] for name in settings.__dataclass_fields__}


def expected(value: Any, hint: Any) -> str | None:
    """What a value of this type should be, in words.

    Returns:
        None where it is, or where the type is neither a number or switch nor a set of words.
    """
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    if value is None and kinds - set(_SIMPLE):
        return None
    kinds.discard(NoneType)
    if words := _words(kinds):
        return None if value in words else f"one of {', '.join(map(str, words))}"
    if len(kinds) != 1 or not kinds <= set(_SIMPLE):
        return None
    (kind,) = kinds
    return None if type(value) is kind or (kind is float and type(value) is int) else _SIMPLE[kind]


def _words(kinds: set[Any]) -> Sequence[Any]:
    """The values of an enumeration or a literal type; none where other values are possible."""
    kinds = kinds - {str}
    if len(kinds) != 1:
        return ()
    (kind,) = kinds
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [member.value for member in kind]
    return ()
