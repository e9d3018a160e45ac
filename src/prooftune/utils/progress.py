"""What a person sees while work goes on: bars on a terminal (standard error) and in a notebook,
elsewhere a line now and then, nothing where ``PROOFTUNE_QUIET`` is set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")

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
    progress = _new_bar(description)
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
    if not console().is_terminal or console().is_jupyter:
        notify(f"  {description}")
        yield
        return
    from rich.text import Text

    with console().status(Text(f"  {description}")):
        yield
