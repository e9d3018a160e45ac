"""OpenMP threads on cores that other processes want as well."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user chooses the number of threads; it is then never changed."""

_SCHEDULING = Path("/proc/thread-self/schedstat")
_CONTENDED = 0.15
_STEPS_BETWEEN_PROBES = 20

_blocks = threading.local()  # as PyTorch's number of threads


class ThreadsByContention:
    """Half as many threads again, in PyTorch and our kernels, while a thread waits for a core.

    A matmul is split into equal parts, one per thread, and ends with its slowest. With one thread
    per core and three busy processes on two cores, one of the threads shares its core with two of
    them, so that the matmul takes 3 times as long, although 2.5 times would be a fair share. With
    three threads the load of the cores is even. An idle machine is fastest with one thread per
    core, so their number goes back for one step in twenty, to see whether they still wait.

    Linux counts the time that threads wait. On other systems nothing changes.

    Args:
        is_fixed: never change the number of threads.
    """

    def __init__(self, is_fixed: bool = False) -> None:
        self._default = torch.get_num_threads()
        self._more = self._default + self._default // 2
        self._is_fixed = is_fixed
        self._times: tuple[int, int] | None = None
        self._steps_to_probe = 0

    def begin_step(self) -> None:
        """Note the times before some tenths of a second of work."""
        self._times = None if self._is_fixed else scheduling_times()

    def end_step(self) -> None:
        """Set the number of threads of the next step."""
        now = scheduling_times()
        if self._times is None or now is None:
            return
        if self._steps_to_probe:
            self._steps_to_probe -= 1
            if not self._steps_to_probe:
                torch.set_num_threads(self._default)
        elif waiting_share(self._times, now) > _CONTENDED:
            self._steps_to_probe = _STEPS_BETWEEN_PROBES
            torch.set_num_threads(self._more)

    def restore(self) -> None:
        """Set the number of threads that there were at first."""
        torch.set_num_threads(self._default)


@contextmanager
def threads_by_contention() -> Iterator[ThreadsByContention]:
    """`ThreadsByContention` for a block, after which there are as many threads as before.

    Their number is fixed within another such block, where `THREAD_SETTINGS` say it, and if several
    processes compute together, which would wait for each other's threads.
    """
    is_inner = getattr(_blocks, "active", False)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    threads = ThreadsByContention(is_inner or several or any(map(os.environ.get, THREAD_SETTINGS)))
    _blocks.active = True
    try:
        yield threads
    finally:
        _blocks.active = is_inner
        threads.restore()


def scheduling_times(statistics: Path = _SCHEDULING) -> tuple[int, int] | None:
    """Nanoseconds that this thread ran, and that it waited for a core.

    Args:
        statistics: the file in which Linux counts them (``Documentation/scheduler/sched-stats``).

    Returns:
        None if the system does not count them.
    """
    try:
        ran, waited, _ = map(int, statistics.read_text().split())
    except (OSError, ValueError):
        return None
    return ran, waited


def waiting_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The share of the time in which a thread had work and waited for a core, from 0 to 1."""
    ran, waited = (now - then for now, then in zip(after, before, strict=True))
    return waited / max(1, ran + waited)
