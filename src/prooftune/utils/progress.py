"""Progress and messages on standard error: bars on a terminal and in a notebook, a line every 30
seconds in a log, nothing if ``PROOFTUNE_QUIET`` is set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 30.0
"""Time between two log lines about the same task, without a terminal."""


@cache
def console() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=bool(os.environ.get("PROOFTUNE_QUIET")), highlight=False)


def notify(message: str, style: str | None = None) -> None:
    """Print a message. Brackets (in labels, file names) are not markup.

    A terminal wraps it between words; in a log it stays on one line.
    """
    console().print(message, style=style, markup=False, soft_wrap=not console().is_terminal)


@dataclass(frozen=True, slots=True)
class Subtask:
    """A part of an open bar's task, which advances that bar instead of opening another one.

    Attributes:
        parent: the open bar.
        size: the part of the bar's total that this subtask is.
    """

    parent: Progress
    size: float


@dataclass(frozen=True, slots=True)
class _SubtaskBar:
    """Stands in for a subtask's bar: advances the parent bar proportionally."""

    subtask: Subtask
    total: float | None

    def advance(self, task: TaskID, done: float = 1) -> None:
        if self.total:
            self.subtask.parent.advance(task, done * self.subtask.size / self.total)


def _new_bar(description: str | None) -> Progress:
    from rich.progress import Progress

    from prooftune.utils import bars

    if description is None or console().quiet:
        return Progress(console=console(), disable=True)
    if console().is_jupyter:
        return bars.NotebookBar()
    if console().is_terminal:
        return Progress(*bars.terminal_columns(console().width), console=console())
    notify(f"  {description}")
    return bars.LogLines(notify, LOG_INTERVAL_SECONDS)


@contextmanager
def progress_bar(
    description: str | Subtask | None, total: float | None, completed: int = 0
) -> Iterator[Progress]:
    """A progress bar with the single task ``0``; advance it with ``bar.advance(0, n)``.

    Args:
        description: text of the bar; or the part of another bar to advance; None: show nothing.
        total: number of steps.
        completed: steps done earlier, which do not count towards the rate.
    """
    if isinstance(description, Subtask):
        # Callers only call `advance`, which both have.
        yield cast("Progress", _SubtaskBar(description, total))
        return
    progress = _new_bar(description)
    with progress:
        progress.add_task(description or "", total=total, completed=completed)
        yield progress


def track(items: Iterable[T], description: str | None, total: int) -> Iterator[T]:
    """Yield the items behind a progress bar; a description of None shows nothing."""
    with progress_bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance(0)  # type: ignore[arg-type]


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """A spinner for work of unknown length."""
    if not console().is_terminal or console().is_jupyter:
        notify(f"  {description}")
        yield
        return
    from rich.text import Text

    with console().status(Text(f"  {description}")):
        yield
