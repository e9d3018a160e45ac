"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
"""Names become folders."""


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are checked, nothing changes after
    loading."""

    # Numbers count as text where text is wanted: columns without a header are 0, 1, 2 and labels
    # may be 1, 2, 3.
    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, use_attribute_docstrings=True
    )
