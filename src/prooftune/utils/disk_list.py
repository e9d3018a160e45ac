"""Lists whose items are stored in a file, so that long ones take little memory."""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from prooftune.utils.files import cache_folder, explain_full_disk

T = TypeVar("T")
BLOCK_BYTES = 1 << 20
"""Bytes per write, and per read when iterating. Shorter lists stay in memory."""


class DiskBackedList(Sequence[T], Generic[T]):
    """A read-only sequence of items that are pickled to an anonymous file in the cache folder.

    Items are unpickled at every access; memory holds eight bytes per item (its end offset). Several
    threads and forked processes can read it. Pickling it includes all items.

    Raises:
        Failure: the disk is full.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, items: Iterable[T] = ()) -> None:
        """Store the items.

        Args:
            items: iterated once.
        """
        self._ends = array("q")  # byte offsets
        self._content = bytearray()
        self._file: int | None = None
        end = 0
        for item in items:
            content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            end += len(content)
            self._ends.append(end)
            self._content += content
            if len(self._content) >= BLOCK_BYTES:
                self._write()
        if self._file is not None:
            self._write()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        item: T = pickle.loads(self._read(self._start(number), self._ends[number]))
        return item

    def __iter__(self) -> Iterator[T]:
        number = 0
        while number < len(self):
            start = self._start(number)
            # At least one item, since an item may be longer than a block.
            stop = max(number + 1, bisect_right(self._ends, start + BLOCK_BYTES))
            block = memoryview(self._read(start, self._ends[stop - 1]))
            for i in range(number, stop):
                yield pickle.loads(block[self._start(i) - start : self._ends[i] - start])
            number = stop

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(
            left == right for left, right in zip(self, other, strict=True)
        )

    def __repr__(self) -> str:
        return (
            f"DiskBackedList({self[:3]!r}{f' and {len(self) - 3:,} more' if len(self) > 3 else ''})"
        )

    def __getstate__(self) -> tuple[bytes, bytes]:
        return self._ends.tobytes(), self._read(0, self._ends[-1]) if self._ends else b""

    def __setstate__(self, state: tuple[bytes, bytes]) -> None:
        ends, content = state
        self._ends, self._content, self._file = array("q", ends), bytearray(content), None
        if len(content) >= BLOCK_BYTES:
            self._write()

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _read(self, start: int, end: int) -> bytes:
        if self._file is None:
            return bytes(self._content[start:end])
        # pread takes its own offset, so threads do not move a shared file position.
        content = os.pread(self._file, end - start, start)
        while len(content) < end - start:  # pread may return less than requested
            content += os.pread(self._file, end - start - len(content), start + len(content))
        return content

    def _write(self) -> None:
        folder = cache_folder()
        with explain_full_disk(folder, OSError):
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                # Without a name: the kernel frees it when the process ends, also after a kill.
                with tempfile.TemporaryFile(dir=folder) as made:
                    # A copy of the descriptor keeps the nameless file after tempfile has closed its
                    # own.
                    self._file = os.dup(made.fileno())
                weakref.finalize(self, os.close, self._file)
            rest = memoryview(self._content)
            # A write may take fewer bytes than it is given.
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._content = bytearray()
