"""What a block of work cost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from prooftune.cost import measured

SIZE = 200_000_000


def can_reset() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK) and Path("/proc/self/status").exists()


def test_seconds_are_those_of_the_block() -> None:
    with measured() as cost:
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 1


def test_a_block_that_fails_is_measured_too() -> None:
    with pytest.raises(KeyError), measured() as cost:
        raise KeyError
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 0


def test_the_peak_holds_what_was_used_and_let_go_within_the_block() -> None:
    with measured() as small:
        pass
    with measured() as large:
        bytearray(b"x") * SIZE
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.9 * SIZE


@pytest.mark.skipif(not can_reset(), reason="the system keeps no peak that can be reset")
def test_the_peak_of_an_earlier_block_does_not_count() -> None:
    with measured() as large:
        bytearray(b"x") * SIZE
    with measured() as small:
        pass
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.9 * SIZE
