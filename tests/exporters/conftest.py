"""Bundles with golden sets, of tiny models of every family, and an export of each made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle.making import make_bundle
from prooftune.types import Example
from prooftune.utils.label_sets import label_set_text

TEXTS = [
    "goal scored match",
    "stocks fell",
    "planet orbit science new phone",
    "the cat sat on a mat",
    "ünïcode 漢字",
    "World 2 3",
    'a "quoted", cell',
    "two\nlines",
    "very good film loved",
    "hated bad",
]
ROWS = [
    Example(str(i), {"text": text}, ["World", "Sports", "Sci/Tech"][i % 3])
    for i, text in enumerate(TEXTS)
]
LABEL_SETS = [
    replace(row, target=label_set_text([row.target or ""][: i % 3])) for i, row in enumerate(ROWS)
]
QUESTIONS = [
    Example(
        str(i),
        {"question": f"{text} question", "context": f"the {text}"},
        text.split()[0],
        references=(text,),
    )
    for i, text in enumerate(TEXTS[:5])
]
LLAMA_CPP = "llama-cpp-python is not installed; docs/export.md has the command that builds it"

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a bundle of a family with a golden set, or gives back the one made before with the same
    options.

    Chat templates are used where the family has one; ``model`` is another folder than the family's.
    """
    made: dict[str, Path] = {}

    def find(family: str = "llama", *, model: Path | None = None, **options: Any) -> Path:
        key = repr((family, model, options))
        if key not in made:
            os.environ["PROOFTUNE_QUIET"] = "1"
            own: dict[str, Any] = {"rows": ROWS}
            if options.get("task") == "multilabel":
                own["rows"] = LABEL_SETS
            elif "task" in options:
                own = {"rows": QUESTIONS, "prompt": {"max_length": 256}}
            # Small changes: a random model with large ones makes of a rounding error another
            # answer.
            settings = {"chat": family != "llama", "size": 0.05, **own, **options}
            folder = tmp_path_factory.mktemp("bundle")
            made[key] = make_bundle(folder, model or model_folders[family], **settings)
        return made[key]

    return find
