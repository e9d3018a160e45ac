"""Memory outside of arrays' own lifetimes: glibc's heap, and oneDNN's cache of compiled kernels."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# From glibc's malloc.h; see mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_MMAP_THRESHOLD, _NEVER_TRIM = 32 * 2**20, -1
"""Bytes: glibc's largest threshold for mmap, and the value that disables trimming."""


_PRIMITIVE_CACHE_CAPACITY = 256
"""Cached oneDNN kernels, enough for a few training steps. Each takes up to half a megabyte."""


def limit_primitive_cache() -> None:
    """Limit oneDNN's cache of the kernels that it compiles for every matmul shape (default: 1024).

    Must be called before the first matmul. An existing ONEDNN_PRIMITIVE_CACHE_CAPACITY is kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_PRIMITIVE_CACHE_CAPACITY))


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """Keep freed memory for the next allocation instead of returning it to the system.

    After every training step glibc returns much of its memory and gets it back in the next step,
    page by page, each of them zeroed; this takes up to a tenth of the time. At the end of the block
    all free memory is returned. With another C library nothing changes.
    """
    mallopt = _libc_function("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        # The value that glibc would have reached by itself in a process with large arrays; setting
        # a threshold turns its automatic adjustment off.
        mallopt(_M_TRIM_THRESHOLD, 2 * _MAX_MMAP_THRESHOLD)
        trim()


def trim() -> None:
    """Return all free memory to the system."""
    _libc_function("malloc_trim")(ctypes.c_size_t(0))


def _libc_function(name: str) -> Callable[..., Any]:
    """A function of glibc; with another C library one that does nothing."""
    try:
        return getattr(ctypes.CDLL(None), name)  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return lambda *_: None
