"""Memory beside the arrays: what was freed is kept for the next step or given back, and kernels of
products are limited."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Of glibc's malloc.h; mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST, _NEVER = 32 * 2**20, -1
"""Bytes: the highest threshold for mappings that there is, and the word for one that nothing
reaches."""


_KERNELS = 256
"""Products' kernels that are kept, a few steps' worth. Each takes up to half a megabyte."""


def limit_primitive_cache() -> None:
    """Let oneDNN keep fewer of the kernels that it makes for every shape of product, of which it
    would keep 1024.

    To be called before the first product. ONEDNN_PRIMITIVE_CACHE_CAPACITY, where it is set, is left
    as it is.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Meanwhile keep what is freed for what is asked for next, instead of giving it back to the
    system.

    After every training step glibc gives much of its memory back, and gets it again in the next one
    page by page, each of them cleared, which takes up to a tenth of the time. At the end all that
    is free is given back. With another C library nothing changes.
    """
    mallopt = _function("mallopt")
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        # To what it comes by itself in a process with large arrays, and no longer would.
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
        trim()


def trim() -> None:
    """Give all that is free back to the system."""
    _function("malloc_trim")(ctypes.c_size_t(0))


def _function(name: str) -> Callable[..., Any]:
    """A function of glibc; with another C library one that does nothing."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
