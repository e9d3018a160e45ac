"""What a check of a recipe finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prooftune.errors import ProoftuneError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in a recipe.

    Attributes:
        severity: ``error`` (the study does not run) or ``note`` (it runs, and the reader must
            know).
        place: dotted key in the recipe.
        message: what was found and what to do.
        cause: the error that said so, where one was raised.
    """

    severity: Literal["error", "note"]
    place: str
    message: str
    cause: ProoftuneError | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def error(place: str, message: str) -> Finding:
    return Finding("error", place, message)


def note(place: str, message: str) -> Finding:
    return Finding("note", place, message)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one variant for another library's class, the recipe's and the variant's together.

    Attributes:
        values: by field name.
        places: dotted key in the recipe of each.
        section: ``training`` or ``lora``.
    """

    values: dict[str, Any]
    places: dict[str, str]
    section: str

    def place(self, key: str) -> str:
        return self.places.get(key, f"{self.section}.{key}")


def merged_options(
    section: str, shared: dict[str, Any], variant: str, own: dict[str, Any]
) -> Options:
    """The options of a variant: its own win over the recipe's."""
    places = {key: f"{section}.{key}" for key in shared}
    places |= {key: f"variants.{variant}.{section}.{key}" for key in own}
    return Options({**shared, **own}, places, section)
