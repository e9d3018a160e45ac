"""What a person sees while work goes on, on standard error: bars on a terminal, lines everywhere, nothing where
``PROOFTUNE_QUIET`` is set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")


@cache
def console() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=bool(os.environ.get("PROOFTUNE_QUIET")), highlight=False)


def say(message: str, style: str | None = None) -> None:
    """Print a line, as it is: brackets in it, of a label or a file's name, are no markup."""
    console().print(message, style=style, markup=False, soft_wrap=True)


@contextmanager
def bar(description: str | None, total: float | None) -> Iterator[Progress]:
    """A progress bar whose single task is ``0``; advance it with ``bar.advance(0, n)``. None: show nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("  {task.description:<34}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn())
    hidden = description is None or console().quiet or not console().is_terminal
    with Progress(*columns, console=console(), disable=hidden) as progress:
        progress.add_task(description or "", total=total)
        yield progress


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items, showing how many of `total` are done."""
    with bar(description, total) as progress:
        for item in items:
            yield item
            progress.advance(0)  # type: ignore[arg-type]


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """A spinner for work whose length is unknown."""
    from rich.text import Text

    with console().status(Text(f"  {description}")):
        yield
