"""The differences between two recipes, described in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from prooftune.utils.secrets import redact

_MAX_VALUE_CHARS = 40


def differences(before: str, now: str) -> list[str]:
    """Describe every key that differs, for example ``training.num_train_epochs 2, now 1``.

    Args:
        before, now: recipes as YAML, as `dump` writes them. If `before` cannot be parsed, the
            result says only that.
    """
    try:
        old = yaml.safe_load(before)
    except yaml.YAMLError:
        # A run folder may hold anything; this only describes it.
        old = None
    if not isinstance(old, Mapping):
        return ["a recipe that cannot be read"]
    return [redact(phrase) for phrase in _describe_changes(old, yaml.safe_load(now), "")]


def _describe_changes(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str
) -> Iterator[str]:
    # In the order of the files, old keys first.
    for key in dict.fromkeys([*old, *new]):
        path = f"{prefix}{key}"
        before, now = old.get(key), new.get(key)
        if key not in new:
            yield f"{path}, now removed"
        elif key not in old:
            yield f"{path}, newly added"
        elif isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _describe_changes(before, now, f"{path}.")
        elif before != now:
            yield f"{path} {_shorten(before)}, now {_shorten(now)}"


def _shorten(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[: _MAX_VALUE_CHARS - 1]}…"
