"""Which rows are computed together, and which never: with a stand-in for the model that can be
held."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prooftune.serving.batching import Batcher, DeadlineExceeded, QueueFull


class BlockedCompute:
    """Doubles numbers, once it is let go; keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, list[Any]]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, key: Any, rows: list[Any]) -> list[Any]:
        self.calls.append((key, list(rows)))
        self.begun.set()
        assert self.go.wait(10)
        if "bad" in rows:
            raise ZeroDivisionError
        return [row * 2 for row in rows]


@pytest.fixture
def held() -> BlockedCompute:
    return BlockedCompute()


@pytest.fixture
def batcher(held: BlockedCompute) -> Iterator[Batcher]:
    one = Batcher(held, max_queue_rows=10, max_batch_size=4)
    yield one
    held.go.set()
    one.close(10)


def later(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def on_start(batcher: Batcher, held: BlockedCompute) -> Any:
    """A request that is being computed, so that others gather behind it."""
    first = batcher.submit("a", [0], later())
    assert held.begun.wait(10)
    return first


def test_what_waits_for_one_model_is_computed_together_up_to_the_budget(
    batcher: Batcher, held: BlockedCompute
) -> None:
    first = on_start(batcher, held)
    requests = [("a", [1, 2]), ("b", [5]), ("a", [3]), ("a", [6, 7]), ("b", [8])]
    futures = [batcher.submit(key, rows, later()) for key, rows in requests]
    held.go.set()
    assert [f.result(10) for f in [first, *futures]] == [[0], [2, 4], [10], [6], [12, 14], [16]]
    assert held.calls == [("a", [0]), ("a", [1, 2, 3]), ("b", [5, 8]), ("a", [6, 7])]


def test_who_was_just_answered_is_waited_for_a_moment(
    batcher: Batcher, held: BlockedCompute
) -> None:
    first = batcher.submit("a", [0, 1, 2], later())
    assert held.begun.wait(10)
    queued_rows = batcher.submit("a", [9], later())
    time.sleep(0.6)  # the moment is a share of what the batch took
    held.go.set()
    assert first.result(10) == [0, 2, 4]
    again = batcher.submit("a", [3, 4, 5], later())
    assert (queued_rows.result(10), again.result(10)) == ([18], [6, 8, 10])
    assert [rows for _, rows in held.calls] == [[0, 1, 2], [9, 3, 4, 5]]


def test_nobody_is_waited_for_in_vain(batcher: Batcher, held: BlockedCompute) -> None:
    first = batcher.submit("a", [0, 1, 2], later())
    assert held.begun.wait(10)
    held.go.set()
    assert first.result(10) == [0, 2, 4]
    begun = time.monotonic()
    assert batcher.submit("a", [9], later()).result(10) == [18]
    assert time.monotonic() - begun < 5


def test_a_request_longer_than_a_batch_is_computed_alone(
    batcher: Batcher, held: BlockedCompute
) -> None:
    on_start(batcher, held)
    long, short = batcher.submit("a", list(range(6)), later()), batcher.submit("a", [9], later())
    held.go.set()
    assert long.result(10) == [0, 2, 4, 6, 8, 10] and short.result(10) == [18]
    assert [rows for _, rows in held.calls] == [[0], [0, 1, 2, 3, 4, 5], [9]]


def test_a_cancelled_request_is_never_computed_and_takes_no_room(
    batcher: Batcher, held: BlockedCompute
) -> None:
    on_start(batcher, held)
    gone = batcher.submit("a", list(range(10)), later())
    assert batcher.queued_rows() == 10
    with pytest.raises(QueueFull):
        batcher.submit("a", [1], later())
    assert gone.cancel()
    future = batcher.submit("a", [1], later())
    assert batcher.queued_rows() == 1
    held.go.set()
    assert future.result(10) == [2]
    assert [rows for _, rows in held.calls] == [[0], [1]]


def test_a_request_whose_time_is_over_is_not_computed(
    batcher: Batcher, held: BlockedCompute
) -> None:
    on_start(batcher, held)
    late, future = batcher.submit("a", [1], later(-1)), batcher.submit("a", [2], later())
    held.go.set()
    assert future.result(10) == [4]
    with pytest.raises(DeadlineExceeded):
        late.result(10)
    assert [rows for _, rows in held.calls] == [[0], [2]]


def test_a_full_queue_says_when_to_come_again(batcher: Batcher, held: BlockedCompute) -> None:
    on_start(batcher, held)
    batcher.submit("a", list(range(10)), later())
    with pytest.raises(QueueFull) as full:
        batcher.submit("b", [1], later())
    assert 1 <= full.value.retry_after <= 60


def test_what_one_request_breaks_is_broken_for_it_alone(
    batcher: Batcher, held: BlockedCompute
) -> None:
    on_start(batcher, held)
    good, bad, other = (batcher.submit("a", [row], later()) for row in (1, "bad", 3))
    held.go.set()
    assert good.result(10) == [2] and other.result(10) == [6]
    with pytest.raises(ZeroDivisionError):
        bad.result(10)
    assert batcher.submit("a", [4], later()).result(10) == [8]  # and the thread goes on


def test_closing_computes_what_waits_and_takes_nothing_more(held: BlockedCompute) -> None:
    batcher = Batcher(held, max_queue_rows=10, max_batch_size=4)
    on_start(batcher, held)
    queued_rows = batcher.submit("a", [1], later())
    held.go.set()
    batcher.close(10)
    assert queued_rows.result(0) == [2]
    with pytest.raises(QueueFull):
        batcher.submit("a", [1], later())
