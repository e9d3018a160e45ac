"""Convert user inputs of a bundle to examples, with error messages that name missing fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prooftune.errors import UsageError
from prooftune.tasks.conversations import parse_history
from prooftune.types import HISTORY, Example
from prooftune.utils.progress import Subtask

MIN_ITEMS_FOR_BAR = 16
"""Smallest number of inputs for which a progress bar is shown; fewer finish at once."""


def progress_label(progress: bool | Subtask, description: str, count: int) -> str | Subtask | None:
    """The label of the progress bar over `count` inputs; None for no bar."""
    if isinstance(progress, Subtask):
        return progress
    return description if progress and count >= MIN_ITEMS_FOR_BAR else None


def to_examples(
    inputs: Sequence[str | Mapping[str, str]], fields: Sequence[str], kind: str
) -> list[Example]:
    """One example per text or question.

    Args:
        inputs: strings if the bundle has a single field, or mappings from field name to text.
        fields: names of the bundle's input fields.
        kind: what one input is called in messages: text, question.

    Raises:
        UsageError: a field is missing, or its value is not a string.
    """
    # A string is a sequence of strings: its letters would be classified one by one.
    if isinstance(inputs, str):
        raise UsageError(f"predict takes a list of {kind}s; for a single one: predict([{kind}])")
    return [
        Example(str(number), _to_fields(number, item, fields, kind))
        for number, item in enumerate(inputs)
    ]


def _to_fields(
    number: int, item: str | Mapping[str, str], fields: Sequence[str], kind: str
) -> dict[str, str]:
    texts = [name for name in fields if name != HISTORY]
    if isinstance(item, str) and len(texts) == 1:
        return {texts[0]: item, **dict.fromkeys((n for n in fields if n == HISTORY), "")}
    if not isinstance(item, Mapping):
        raise UsageError(
            f"{kind} {number}: this bundle reads {', '.join(fields)}; give a string"
            f"{'' if len(fields) == 1 else ' for each, as a mapping'}, not {type(item).__name__}"
        )
    if HISTORY in fields and HISTORY not in item:
        item = {**item, HISTORY: ""}  # the first turn of a conversation has none
    missing = [name for name in fields if not isinstance(item.get(name), str)]
    if missing:
        raise UsageError(
            f"{kind} {number}: no {', '.join(missing)} in it; it has "
            f"{', '.join(map(str, item)) or 'nothing'}"
        )
    if item.get(HISTORY):
        try:
            parse_history(item[HISTORY])
        except ValueError as error:
            raise UsageError(f"{kind} {number}: history: {error}") from None
    return {name: item[name] for name in fields}
