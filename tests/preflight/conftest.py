"""Checks of quantisation settings, with and without the library for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from prooftune.models import loading


@pytest.fixture(autouse=True)
def bitsandbytes_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the library is missing would be one more finding of many checks."""

    def is_here(name: str) -> Any:
        return name == "bitsandbytes" or find_spec(name)

    monkeypatch.setattr(loading, "find_spec", is_here)
