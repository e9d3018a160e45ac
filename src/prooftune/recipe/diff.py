"""What differs between two recipes, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from prooftune.utils.secrets import redact


def differences(before: str, now: str) -> list[str]:
    """A phrase for every key that differs, such as ``training.num_train_epochs 2, now 1``.

    Args:
        before, now: recipes as `dump` writes them; of one that cannot be read nothing more is
            known.
    """
    try:
        old = yaml.safe_load(before)
    except yaml.YAMLError:
        old = None
    if not isinstance(old, Mapping):
        return ["a recipe that cannot be read"]
    return [redact(phrase) for phrase in _phrases(old, yaml.safe_load(now), "")]


def _phrases(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        place = f"{path}{key}"
        if key not in new:
            yield f"{place}, now gone"
        elif key not in old:
            yield f"{place}, not there before"
        elif isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from _phrases(old[key], new[key], f"{place}.")
        elif old[key] != new[key]:
            yield f"{place} {_short(old[key])}, now {_short(new[key])}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
