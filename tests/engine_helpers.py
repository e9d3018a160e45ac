"""Shared by the engine's tests: a RoPE configuration, and a record of calls of compiled code."""

from __future__ import annotations

from typing import Any

import pytest

from prooftune.engine.kernels import build

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the compiled functions that are called from now on, in order."""
    calls: list[str] = []
    call = build.call

    def recorded(library: Any, function: str, *arguments: Any) -> None:
        calls.append(function)
        call(library, function, *arguments)

    monkeypatch.setattr(build, "call", recorded)
    return calls
