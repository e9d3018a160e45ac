"""The base class of all recipe sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
"""A name that is safe to use as a folder name."""


class Section(BaseModel):
    """A section of the recipe; unknown keys are errors, and instances are immutable."""

    # Numbers are accepted as text: columns without a header are named 0, 1, 2, and labels may be
    # 1, 2, 3.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
        # A price or limit of `.inf` or `.nan` passes every comparison and then means nothing.
        allow_inf_nan=False,
    )


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field in the recipe: its name, or its alias where that is a word of Python's, as
    ``from`` is."""
    return field.alias or name


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by their keys in the recipe."""
    return {key_of(name, field): field for name, field in section.model_fields.items()}
