"""Bundles of a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle.making import make_bundle


@pytest.fixture(scope="session")
def bundles(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes a bundle, or gives back the one made before with the same options."""
    made: dict[str, Path] = {}

    def make(text: Any = "text", **options: Any) -> Path:
        key = repr((text, options))
        if key not in made:
            made[key] = make_bundle(
                tmp_path_factory.mktemp("bundle"), model_folders["llama"], text, **options
            )
        return made[key]

    return make


@pytest.fixture
def bundle(bundles: Callable[..., Path]) -> Path:
    return bundles()
