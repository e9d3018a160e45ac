"""What the C library does with memory that was freed: kept for the next step of training, or given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _function(name: str) -> Callable[..., Any]:
    """A function of glibc; with another C library one that does nothing."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
