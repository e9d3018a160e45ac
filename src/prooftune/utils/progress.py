"""What a person sees while work goes on, on standard error: bars on a terminal, elsewhere a line
now and then, nothing where ``PROOFTUNE_QUIET`` is set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

_WIDTH = 110
"""Columns that a bar and all beside it take."""
LOG_INTERVAL_SECONDS = 30.0
"""Between two lines about the same work where there is no terminal."""


@cache
def console() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=bool(os.environ.get("PROOFTUNE_QUIET")), highlight=False)


def notify(message: str, style: str | None = None) -> None:
    """Print a line, as it is: brackets in it, of a label or a file's name, are no markup. A
    terminal breaks it between words; in a log it stays one line."""
    console().print(message, style=style, markup=False, soft_wrap=not console().is_terminal)


@dataclass(frozen=True, slots=True)
class Subtask:
    """A part of what an open bar shows, by which that one advances.

    Attributes:
        whole: the open bar.
        size: how much of it the part is.
    """

    whole: Progress
    size: float


@dataclass(frozen=True, slots=True)
class _Within:
    """In the place of a part's bar: advances the whole by as much."""

    part: Subtask
    total: float | None

    def advance(self, task: Any, done: float = 1) -> None:
        if self.total:
            self.part.whole.advance(task, done * self.part.size / self.total)


@contextmanager
def progress_bar(
    description: str | Subtask | None, total: float | None, completed: int = 0
) -> Iterator[Progress]:
    """A progress bar whose single task is ``0``; advance it with ``bar.advance(0, n)``. None: show
    nothing.

    Args:
        description: what is done; or the part of another bar that it is, which advances in its
            stead.
        total: how much there is to do.
        completed: how much of it was done before, which does not count for the rate.
    """
    if isinstance(description, Subtask):
        yield cast("Progress", _Within(description, total))
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            told = (
                f"{speed:,.0f}/s"
                if speed and speed >= 10
                else f"{speed:.1f}/s"
                if speed and speed >= 0.5
                else ""
            )
            return Text(told or (f"{1 / speed:.1f} s each" if speed else ""), "progress.data.speed")

    # In a terminal of 80 characters a bar of 4 stands, without the time that has passed.
    spare = console().width - _WIDTH
    passed = [TimeElapsedColumn(), TextColumn("<")] if spare >= 0 else []
    columns = (
        TextColumn("  {task.description:<34}", markup=False),
        BarColumn(bar_width=max(4, min(24, 24 + spare))),
        MofNCompleteColumn(),
        Rate(),
        *passed,
        TimeRemainingColumn(),
    )

    class Lines(Progress):
        """For a log: how far it is, from time to time."""

        told = 0.0

        def advance(self, *arguments: Any, **options: Any) -> None:
            super().advance(*arguments, **options)
            self._tell()

        def update(self, *arguments: Any, **options: Any) -> None:
            super().update(*arguments, **options)
            self._tell()

        def _tell(self) -> None:
            if self.get_time() - self.told < LOG_INTERVAL_SECONDS:
                return
            self.told, task = self.get_time(), self.tasks[0]
            done = f"{task.completed:,.0f}" + (
                "" if task.total is None else f" of {task.total:,.0f}"
            )
            left = (
                "" if task.time_remaining is None else f"{TimeRemainingColumn().render(task)} left"
            )
            notify(
                f"  {task.description}: "
                f"{', '.join(filter(None, [done, str(Rate().render(task)), left]))}"
            )

    shown = description is not None and not console().quiet
    if shown and not console().is_terminal:
        notify(f"  {description}")
        lines = Lines(
            disable=True, get_time=time.monotonic, speed_estimate_period=20 * LOG_INTERVAL_SECONDS
        )
        lines.told = lines.get_time()
        progress: Progress = lines
    else:
        progress = Progress(*columns, console=console(), disable=not shown)
    with progress:
        progress.add_task(description or "", total=total, completed=completed)
        yield progress


def track(items: Iterable[T], description: str | None, total: int) -> Iterator[T]:
    """Yield the items, showing how many of `total` are done; None: show nothing."""
    with progress_bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance(0)  # type: ignore[arg-type]


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """A spinner for work whose length is unknown."""
    from rich.text import Text

    if not console().is_terminal:
        notify(f"  {description}")
    with console().status(Text(f"  {description}")):
        yield
