"""Long lists of which little is held: the items lie in a file."""

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
_BLOCK = 1 << 20
"""Bytes that are written and, in order, read at one time. What is shorter stays in memory."""


class DiskBackedList(Sequence[T], Generic[T]):
    """A sequence whose items lie pickled in a file without a name in Prooftune's cache folder, and
    are made anew whenever they are asked for: what is held is the eight bytes that say where an
    item ends.

    It can be read by several threads, and by processes that were forked off. Pickled, it is its
    whole content.

    Raises:
        Failure: the disk is full.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, items: Iterable[T] = ()) -> None:
        """Args:
        items: gone through once; none is kept.
        """
        self._ends = array("q")
        self._content = bytearray()
        self._file: int | None = None
        end = 0
        for item in items:
            content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            end += len(content)
            self._ends.append(end)
            self._content += content
            if len(self._content) >= _BLOCK:
                self._write()
        if self._file is not None:
            self._write()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(f"item {place} of {len(self)}")
        item: T = pickle.loads(self._read(self._start(number), self._ends[number]))
        return item

    def __iter__(self) -> Iterator[T]:
        number = 0
        while number < len(self):
            start = self._start(number)
            past = max(number + 1, bisect_right(self._ends, start + _BLOCK))
            block = memoryview(self._read(start, self._ends[past - 1]))
            for i in range(number, past):
                yield pickle.loads(block[self._start(i) - start : self._ends[i] - start])
            number = past

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == its for mine, its in zip(self, other, strict=True)
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
        if len(content) >= _BLOCK:
            self._write()

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _read(self, start: int, end: int) -> bytes:
        if self._file is None:
            return bytes(self._content[start:end])
        content = os.pread(self._file, end - start, start)
        while len(content) < end - start:  # the system may give less at one time
            content += os.pread(self._file, end - start - len(content), start + len(content))
        return content

    def _write(self) -> None:
        folder = cache_folder()
        with explain_full_disk(folder, OSError):
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as made:
                    self._file = os.dup(made.fileno())
                weakref.finalize(self, os.close, self._file)
            rest = memoryview(self._content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._content = bytearray()
