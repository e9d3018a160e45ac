"""Files and examples that the tests of the data floor are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe
from prooftune.data.readers.dispatch import read_table
from prooftune.data.readers.table import Table
from prooftune.errors import UsageError
from prooftune.recipe import Recipe, Source
from prooftune.types import Example


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(path: Path, **options: Any) -> Table:
    return read_table(path, Source(path=str(path), **options))


def refused(path: Path, **options: Any) -> str:
    """The message with which reading this file ends."""
    with pytest.raises(UsageError) as error:
        table(path, **options)
    return str(error.value)


def study_recipe(data: dict[str, Any], **sections: Any) -> Recipe:
    return recipe.parse({"name": "x", "data": data, "variants": ["majority"], **sections})


def examples(pairs: Sequence[tuple[str, str | None]], name: str = "f") -> list[Example]:
    """(text, label) pairs as examples with ids ``name:1`` …"""
    return [
        Example(f"{name}:{i}", {"text": text}, label, f"{name}:{i}")
        for i, (text, label) in enumerate(pairs, start=1)
    ]
