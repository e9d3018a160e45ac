"""A judge on this machine, and settings that reach it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from prooftune.chat_client import endpoint
from prooftune.recipe.judge import Judge as Settings

from . import server


@pytest.fixture
def endpoint_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Judge]:
    # Waits are part of what is tested, but not their length; a proxy would not reach this machine.
    monkeypatch.setattr(endpoint, "FIRST_BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with server.serving() as judge:
        yield judge


@pytest.fixture
def settings(endpoint_server: server.Judge) -> Callable[..., Settings]:
    def make(**options: object) -> Settings:
        base = {
            "model": "m",
            "base_url": endpoint_server.url,
            "criteria": {"coherence": "Is it clear?"},
            "timeout": 20,
            "retries": 2,
            "rows": None,
        }
        return Settings.model_validate(base | options)

    return make
