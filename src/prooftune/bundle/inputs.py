"""What people hand to a bundle -> examples, or a message that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prooftune.errors import UsageError
from prooftune.types import Example
from prooftune.utils.progress import Subtask

MIN_ITEMS_FOR_BAR = 16
"""Texts or questions, from which on a bar shows how far it is: a few are answered before anyone
could read it."""


def progress_label(progress: bool | Subtask, description: str, count: int) -> str | Subtask | None:
    """What the bar over so many texts or questions says."""
    if isinstance(progress, Subtask):
        return progress
    return description if progress and count >= MIN_ITEMS_FOR_BAR else None


def to_examples(
    given: Sequence[str | Mapping[str, str]], fields: Sequence[str], what: str
) -> list[Example]:
    """One example for each text or question.

    Args:
        given: strings where the bundle reads a single field, or mappings from field name to text.
        fields: names of the texts that the bundle reads.
        what: what one of them is called: text, question.

    Raises:
        UsageError: a field is missing, or is no text.
    """
    if isinstance(given, str):
        raise UsageError(f"predict takes a list of {what}s; for a single one: predict([{what}])")
    return [
        Example(str(number), _inputs(number, one, fields, what)) for number, one in enumerate(given)
    ]


def _inputs(
    number: int, given: str | Mapping[str, str], fields: Sequence[str], what: str
) -> dict[str, str]:
    if isinstance(given, str) and len(fields) == 1:
        return {fields[0]: given}
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{what} {number}: this bundle reads {', '.join(fields)}; give a string"
            f"{'' if len(fields) == 1 else ' for each, as a mapping'}, not {type(given).__name__}"
        )
    missing = [name for name in fields if not isinstance(given.get(name), str)]
    if missing:
        raise UsageError(
            f"{what} {number}: no {', '.join(missing)} in it; it has "
            f"{', '.join(map(str, given)) or 'nothing'}"
        )
    return {name: given[name] for name in fields}
