"""What a block of work cost."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest

from prooftune.utils.profiling import measure_cost

pytestmark = pytest.mark.slow

SIZE = 200_000_000


def can_reset() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK) and Path("/proc/self/status").exists()


def test_seconds_are_those_of_the_block() -> None:
    with measure_cost() as cost:
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 1


def test_a_block_that_fails_is_measured_too() -> None:
    with pytest.raises(KeyError), measure_cost() as cost:
        raise KeyError
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 0


def test_the_peak_includes_memory_freed_within_the_block() -> None:
    with measure_cost() as small:
        pass
    with measure_cost() as large:
        bytearray(b"x") * SIZE
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.9 * SIZE


@pytest.mark.slow
@pytest.mark.skipif(not can_reset(), reason="the system keeps no peak that can be reset")
def test_the_peak_of_an_earlier_block_does_not_count() -> None:
    with measure_cost() as large:
        bytearray(b"x") * SIZE
    with measure_cost() as small:
        pass
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.9 * SIZE
    assert large.peak_memory_bytes - large.memory_before_bytes > 0.9 * SIZE


@pytest.mark.skipif(
    not can_reset() or platform.libc_ver()[0] != "glibc",
    reason="the C library hands nothing back when told to",
)
def test_memory_freed_before_the_block_does_not_count() -> None:
    with measure_cost() as before:
        pass
    # Blocks of this size stand on the heap, where what is freed under the last one stays with the
    # process.
    blocks = [b"x" * 100_000 for _ in range(SIZE // 100_000)]
    last = b"y" * 100_000
    del blocks
    with measure_cost() as after:
        pass
    assert after.peak_memory_bytes - before.peak_memory_bytes < 0.2 * SIZE, len(last)
