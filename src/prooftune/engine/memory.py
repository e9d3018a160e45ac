"""Memory that work of many equal steps keeps from one step to the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h; mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _NEVER = 32 * 2**20, 2**31 - 1
"""Bytes: the highest threshold for mappings that there is, and a block that nothing frees."""


@contextmanager
def kept() -> Iterator[None]:
    """Meanwhile keep what is freed for what is asked for next, instead of giving it back to the system.

    After every training step glibc gives much of its memory back, and gets it again in the next one page by page, each of them
    cleared, which takes up to a tenth of the time. At the end all that is free is given back. With another C library nothing
    changes.
    """
    try:
        library: Any = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        # To what it comes by itself in a process with large arrays, and no longer would.
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        trim(ctypes.c_size_t(0))
