"""What the C library does with memory that was freed: kept for the next step of training, or given back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Of glibc's malloc.h; mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _NEVER = 32 * 2**20, -1
"""Bytes: the highest threshold for mappings that there is, and the word for one that nothing reaches."""


@contextmanager
def kept() -> Iterator[None]:
    """Meanwhile keep what is freed for what is asked for next, instead of giving it back to the system.

    After every training step glibc gives much of its memory back, and gets it again in the next one page by page, each of them
    cleared, which takes up to a tenth of the time. At the end all that is free is given back. With another C library nothing
    changes.
    """
    mallopt = _function("mallopt")
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        # To what it comes by itself in a process with large arrays, and no longer would.
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        give_back()


def give_back() -> None:
    """Give all that is free back to the system."""
    _function("malloc_trim")(ctypes.c_size_t(0))


class Growth:
    """Keeps the memory of work of many steps from growing beyond what a step needs.

    To an aligned array glibc gives no block that an equal one has left, since it looks for a larger one to align it in: where
    steps differ, memory that is free but in the wrong pieces grows from step to step, up to the double of what is used.
    """

    MOST = 1.12
    """Times the memory after the first step, above which what is free is given back."""

    def __init__(self) -> None:
        self._first = 0

    def step_done(self) -> None:
        """To be called after every step."""
        now = resident()
        if not self._first:
            self._first = now
        elif now > self.MOST * self._first:
            give_back()
            self._first = 0


def resident() -> int:
    """Bytes of this process in memory now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _function(name: str) -> Callable[..., Any]:
    """A function of glibc; with another C library one that does nothing."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
