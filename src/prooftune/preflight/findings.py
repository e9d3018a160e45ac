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
        key_path: dotted key in the recipe.
        message: what was found and what to do.
        cause: the error that said so, where one was raised.
    """

    severity: Literal["error", "note"]
    key_path: str
    message: str
    # Not compared: equal findings are shown once, and no two exceptions are equal.
    cause: ProoftuneError | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.key_path}: {self.message}"


def error(key_path: str, message: str) -> Finding:
    return Finding("error", key_path, message)


def note(key_path: str, message: str) -> Finding:
    return Finding("note", key_path, message)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one variant for another library's class, the recipe's and the variant's together.

    Attributes:
        values: by field name.
        key_paths: dotted key in the recipe of each.
        section: ``training`` or ``lora``.
    """

    values: dict[str, Any]
    key_paths: dict[str, str]
    section: str

    def key_path(self, key: str) -> str:
        return self.key_paths.get(key, f"{self.section}.{key}")


def merged_options(
    section: str, shared: dict[str, Any], variant: str, own: dict[str, Any]
) -> Options:
    """The options of a variant: its own win over the recipe's."""
    # A message names the key that the user wrote, in the recipe or in the variant.
    key_paths = {key: f"{section}.{key}" for key in shared}
    key_paths |= {key: f"variants.{variant}.{section}.{key}" for key in own}
    return Options({**shared, **own}, key_paths, section)
