"""Lists that lie in a file are the lists that they were made from, and hold eight bytes an item."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prooftune.errors import Failure
from prooftune.utils import disk_list
from prooftune.utils.disk_list import DiskBackedList

LONG = [f"{n} " + "x" * (n % 3000) for n in range(5000)]
"""More than a block."""


@given(
    items=st.lists(st.one_of(st.text(), st.lists(st.integers())), max_size=30),
    block=st.integers(1, 200),
    data=st.data(),
)
def test_it_is_the_list_that_it_was_made_from(
    items: list[Any], block: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_list, "BLOCK_BYTES", block)
        stored = DiskBackedList(iter(items))
        assert (
            len(stored) == len(items)
            and list(stored) == items
            and stored == items
            and stored == DiskBackedList(items)
        )
        assert [stored[i] for i in range(-len(items), len(items))] == items + items
        part = data.draw(st.slices(max(1, len(items))))
        assert stored[part] == items[part]
        assert list(pickle.loads(pickle.dumps(stored))) == items
        for index in (len(items), -len(items) - 1):
            with pytest.raises(IndexError):
                stored[index]


def test_lists_that_differ_are_not_equal() -> None:
    assert (
        DiskBackedList(["a"]) != ["b"]
        and DiskBackedList(["a"]) != ["a", "a"]
        and DiskBackedList("ab") != "ab"
    )


@pytest.mark.slow
def test_eight_bytes_an_item_are_held() -> None:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    stored = DiskBackedList("x" * 500 + str(n) for n in range(50_000))
    held, most = (size - before for size in tracemalloc.get_traced_memory())
    tracemalloc.reset_peak()
    assert sum(map(len, stored)) > 25_000_000
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10 * 50_000 + 50_000
    assert max(most, reading - before) < held + 5_000_000


@pytest.mark.slow
def test_its_file_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    stored = DiskBackedList(LONG)
    assert (
        list((tmp_path / "cache").iterdir()) == []
    )  # the file has no name that a kill could leave behind
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    del stored
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


_inherited: list[DiskBackedList[str]] = []


def _inherit(stored: DiskBackedList[str]) -> None:
    _inherited.append(stored)


def _item(index: int) -> str:
    return _inherited[0][index]


@pytest.mark.slow
def test_threads_and_forked_processes_read_it() -> None:
    stored = DiskBackedList(LONG)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: stored[n], range(5000))) == LONG
    with multiprocessing.get_context("fork").Pool(2, _inherit, (stored,)) as processes:
        assert processes.map(_item, range(0, 5000, 100)) == LONG[::100]


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Failure, match="the disk is full"):
        DiskBackedList(LONG)
