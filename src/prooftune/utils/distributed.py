"""Several processes that work on one run, as ``torchrun`` and ``accelerate launch`` start them.

Rank 0 leads: it alone walks through the study, shows what happens and writes files. The others
help. They wait until the leader shares a piece of work (training, scoring), do it with the leader,
and wait again. A process that nobody launched so leads, and has no helpers.
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

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher puts into the environment."""

_LONG = timedelta(days=365)
"""Helpers wait for as long as the leader works alone; that it has died is noticed by its
connection."""

_AGAIN = "The same command goes on from what was finished and from the last checkpoint."

_waiting: Any = None
"""The group over which the leader tells what to do; None outside `joined`."""

_busy = False
"""In the leader: whether shared work is going on, or has failed."""


def rank() -> int:
    """This process's number; 0 where there is only one."""
    return int(os.environ["RANK"]) if _waiting is not None else 0


def world_size() -> int:
    """How many processes work together."""
    return int(os.environ["WORLD_SIZE"]) if _waiting is not None else 1


@contextmanager
def process_group() -> Iterator[bool]:
    """Meet the other processes of the launch, if there was one.

    Yields:
        True in the leader, at once. False in a helper, when the leader has left its block: there is
        nothing more to do.

    Raises:
        Failure: another process has ended, or the launcher tells this one to end. From then on
            SIGTERM is ignored: it may follow at once, and what happened has yet to be said.
    """
    global _waiting
    if _waiting is not None or not _launched():
        yield True
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if os.environ["RANK"] != "0":
        os.environ["PROOFTUNE_QUIET"] = "1"
    handles = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _told_to_end) if handles else None
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _waiting = distributed.new_group(backend="gloo", timeout=_LONG)
    try:
        if rank():
            _help()
            yield False
        else:
            try:
                yield True
            finally:
                if (
                    not _busy
                ):  # otherwise something went wrong in shared work, where nobody listens for this
                    _tell(None)
    finally:
        _waiting = None
        if handles and signal.getsignal(signal.SIGTERM) is _told_to_end:
            signal.signal(signal.SIGTERM, before)
        with suppress(RuntimeError):
            distributed.destroy_process_group()


def run_on_all_ranks(work: Callable[..., T], *arguments: Any) -> list[T]:
    """Do a piece of work in all processes at once; to be called by the leader.

    Args:
        work: a function of a module, the same in all processes; it may meet the others in
            collective operations.
        arguments: given to each of them (pickled).

    Returns:
        What it returned, by rank.

    Raises:
        Failure: another process has ended meanwhile.
    """
    if world_size() == 1:
        return [work(*arguments)]
    global _busy
    _busy = (
        True  # before anybody may have heard of it: from then on nobody listens for another message
    )
    _tell((work, arguments))
    results = _do(work, arguments)
    _busy = False
    return results


def local_shard(items: list[T]) -> list[T]:
    """Those of the items that fall to this process: every n-th."""
    return items[rank() :: world_size()]


def merge_shards(parts: list[list[T]]) -> list[T]:
    """The items in their order again, from the shares of all ranks."""
    whole: list[Any] = [None] * sum(map(len, parts))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def _launched() -> bool:
    return all(os.environ.get(name) for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def _help() -> None:
    while (told := _tell(None)) is not None:
        _do(*told)


def _tell(message: Any) -> Any:
    """The leader's message, in every process; what others give is not looked at."""
    from torch import distributed

    box = [message]
    with _others():
        distributed.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


def _do(work: Callable[..., T], arguments: tuple[Any, ...]) -> list[T]:
    from torch import distributed

    with _others():
        result = work(*arguments)
        results: list[Any] | None = None if rank() else [None] * world_size()
        distributed.gather_object(result, results, dst=0, group=_waiting)
        return results or []


@contextmanager
def _others() -> Iterator[None]:
    """Says what happened where another process is gone in the middle of something."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:  # gloo raises it bare, with its own words in it
        lost = isinstance(error, distributed.DistError) or any(
            word in str(error) for word in ("gloo", "Connection", "NCCL")
        )
        if not lost:
            raise
        _ends()
        raise Failure(
            f"another of the {world_size()} processes has ended in the middle of the work, so process "
            f"{rank()} ends, too; the "
            f"first message above says why, if it could. {_AGAIN}"
        ) from error


def _told_to_end(*_: Any) -> None:
    _ends()
    raise Failure(
        f"process {os.environ['RANK']} was told to end (SIGTERM), as the launcher does when "
        "another process has ended. "
        f"{_AGAIN}"
    )


def _ends() -> None:
    """This process ends by itself now: nobody needs to tell it (again)."""
    if (
        signal.getsignal(signal.SIGTERM) is _told_to_end
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
