"""One run on several processes, as ``torchrun`` and ``accelerate launch`` start them.

Rank 0 is the leader: it alone runs the study, prints and writes files. The other ranks are workers:
they wait for a function to run on all ranks (training, scoring), run it with the leader, and wait
again. A process that was not started by a launcher is a leader without workers.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from prooftune.errors import Failure

T = TypeVar("T")

_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that every launcher sets."""

_WAIT_TIMEOUT = timedelta(days=365)
"""Timeout of waiting workers. If the leader dies, its connection closes and ends the wait."""

_RESUME_HINT = "The same command resumes from the finished stages and the last checkpoint."

_waiting: Any = None
"""The group over which the leader sends work; None outside `process_group`."""

_busy = False
"""On the leader: whether work on all ranks is running, or has failed."""


def rank() -> int:
    """This process's rank; 0 if there is only one process."""
    return int(os.environ["RANK"]) if _waiting is not None else 0


def world_size() -> int:
    """Number of processes."""
    return int(os.environ["WORLD_SIZE"]) if _waiting is not None else 1


@contextmanager
def process_group() -> Iterator[bool]:
    """Join the process group of the launcher, if there is one.

    Yields:
        True on the leader, immediately. False on a worker, after the leader has left its block.

    Raises:
        Failure: another process has ended, or the launcher terminates this one. From then on
            SIGTERM is ignored, so that the error can still be printed.
    """
    global _waiting
    if _waiting is not None or not _is_launched():
        yield True
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        # Before the group is made, or every rank would open a context on GPU 0.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if os.environ["RANK"] != "0":
        # Only the leader prints.
        os.environ["PROOFTUNE_QUIET"] = "1"
    handles = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _on_terminate) if handles else None
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    # A separate gloo group with a long timeout: workers wait in it for as long as the leader works
    # alone (baselines, report), where the default group's timeout would end them.
    _waiting = distributed.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
    try:
        if rank():
            _work()
            yield False
        else:
            try:
                yield True
            finally:
                # After a failure in shared work, no worker listens any more.
                if not _busy:
                    _broadcast(None)
    finally:
        _waiting = None
        if handles and signal.getsignal(signal.SIGTERM) is _on_terminate:
            signal.signal(signal.SIGTERM, before)
        # After a lost process, the group cannot be destroyed cleanly; the first error matters.
        with suppress(RuntimeError):
            distributed.destroy_process_group()


def run_on_all_ranks(work: Callable[..., T], *arguments: object) -> list[T]:
    """Run a function on all ranks at once. Called by the leader.

    Args:
        work: a module's function (pickled by name); it may use collective operations.
        arguments: pickled and sent to every rank.

    Returns:
        The results, by rank.

    Raises:
        Failure: another process has ended.
    """
    if world_size() == 1:
        return [work(*arguments)]
    global _busy
    # Set before the broadcast: once workers run the function, they listen for no other message.
    _busy = True
    _broadcast((work, arguments))
    results = _run(work, arguments)
    _busy = False
    return results


def agree_on_largest(*values: int) -> list[int]:
    """The largest of each value over all ranks, each of which must call this."""
    if world_size() == 1:
        return list(values)
    import torch

    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, values)
    return [max(column) for column in zip(*gathered, strict=True)]


def local_shard(items: list[T]) -> list[T]:
    """This rank's shard of the items: every n-th one."""
    return items[rank() :: world_size()]


def merge_shards(parts: list[list[T]]) -> list[T]:
    """The items in their original order, from the shards of all ranks."""
    whole: list[Any] = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part  # undoes `local_shard`
    return whole


def _is_launched() -> bool:
    return (
        all(os.environ.get(name) for name in _LAUNCHER_VARIABLES)
        and int(os.environ["WORLD_SIZE"]) > 1
    )


def _work() -> None:
    while (message := _broadcast(None)) is not None:
        _run(*message)


def _broadcast(message: object) -> Any:
    """The leader's message, on every rank. The workers' argument is ignored."""
    from torch import distributed

    box = [message]
    with _explain_lost_process():
        distributed.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


def _run(work: Callable[..., T], arguments: tuple[Any, ...]) -> list[T]:
    from torch import distributed

    with _explain_lost_process():
        result = work(*arguments)
        # gather_object takes a list on the destination rank only.
        results: list[Any] | None = None if rank() else [None] * world_size()
        distributed.gather_object(result, results, dst=0, group=_waiting)
        return results or []


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Explain the error if another process disappears during a collective operation."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:  # gloo raises plain RuntimeErrors
        lost = isinstance(error, distributed.DistError) or any(
            word in str(error) for word in ("gloo", "Connection", "NCCL")
        )
        if not lost:
            raise
        _ignore_terminate()
        raise Failure(
            f"another of the {world_size()} processes ended unexpectedly, so process {rank()} "
            f"ends, too; the first message above gives the reason, if there is one. {_RESUME_HINT}"
        ) from error


def _on_terminate(*_: Any) -> None:
    _ignore_terminate()
    raise Failure(
        f"process {os.environ['RANK']} was terminated (SIGTERM), as the launcher does when "
        f"another process has ended. {_RESUME_HINT}"
    )


def _ignore_terminate() -> None:
    """Ignore SIGTERM from now on: this process is ending anyway."""
    if (
        signal.getsignal(signal.SIGTERM) is _on_terminate
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
