"""Memory that is freed in one step is there for the next."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune.utils.malloc import limit_primitive_cache, retain_freed_memory

SIZE, COUNT = 20_000_000, 20
"""Bytes of an array, as large as training has many, and arrays that are there at one time."""


def faults() -> int:
    """Pages that the system gave this process while it wrote large arrays and forgot them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [torch.zeros(SIZE, dtype=torch.uint8) for _ in range(COUNT)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def alone(work: Callable[[], None]) -> None:
    """Run in a separate process: the memory that glibc releases depends on the whole heap."""
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


def retain_and_trim() -> None:
    before = resident()
    faults()
    assert faults() > SIZE * COUNT / 4096 / 2, "glibc gives it back by itself"
    with retain_freed_memory():
        first = faults()
        again = [faults() for _ in range(3)]
        assert max(again) < first / 10
        assert resident() > before + SIZE * COUNT * 0.9
    assert resident() < before + SIZE * COUNT / 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_a_step_takes_the_memory_of_the_one_before_and_all_is_given_back() -> None:
    alone(retain_and_trim)


def test_with_another_c_library_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions are looked for, by name, and nothing is called where they are not."""
    asked: list[str] = []

    class Other:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    with retain_freed_memory():
        assert asked == ["mallopt"]
    assert asked == ["mallopt", "malloc_trim"]


def test_fewer_kernels_are_kept_unless_somebody_wants_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    limit_primitive_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    limit_primitive_cache()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "9"
