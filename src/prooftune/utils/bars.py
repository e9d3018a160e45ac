"""Progress bars on a terminal, in a log and in a notebook; `utils.progress` chooses between them.

A module of its own, since it imports rich, which `prooftune --help` does without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_WIDTH = 110
"""Columns that a bar and all beside it take."""
NOTEBOOK_INTERVAL_SECONDS = 0.25
"""Between two updates of a notebook's bar."""


class RateColumn(ProgressColumn):
    """Steps per second, or seconds per step."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        text = f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s"
        return Text(text if speed >= 0.5 else f"{1 / speed:.1f} s each", "progress.data.speed")


def terminal_columns(width: int) -> list[ProgressColumn]:
    """Columns of a bar in a terminal of that many characters; below 110 without elapsed time."""
    spare = width - _WIDTH
    elapsed = [TimeElapsedColumn(), TextColumn("<")] if spare >= 0 else []
    return [
        TextColumn("  {task.description:<34}", markup=False),
        BarColumn(bar_width=max(4, min(24, 24 + spare))),
        MofNCompleteColumn(),
        RateColumn(),
        *elapsed,
        TimeRemainingColumn(),
    ]


def status(task: Task) -> str:
    """Progress, rate and time, as in ``2,000 of 4,000, 50/s, 0:00:40 left``."""
    done = f"{task.completed:,.0f}" + ("" if task.total is None else f" of {task.total:,.0f}")
    if task.finished:
        times = f"in {TimeElapsedColumn().render(task)}"
    elif task.time_remaining is None:
        times = ""
    else:
        times = f"{TimeRemainingColumn().render(task)} left"
    return ", ".join(filter(None, [done, str(RateColumn().render(task)), times]))


class _Reporting(Progress):
    """Draws nothing by itself, and calls `_report` at most once per interval."""

    def __init__(self, interval: float, **options: Any) -> None:
        # rich's own display is off: it needs a terminal, and in a notebook ipywidgets.
        super().__init__(disable=True, get_time=time.monotonic, **options)
        self._interval = interval
        self._reported_at = self.get_time()

    def advance(self, *arguments: Any, **options: Any) -> None:
        super().advance(*arguments, **options)
        self._report_when_due()

    def update(self, *arguments: Any, **options: Any) -> None:
        super().update(*arguments, **options)
        self._report_when_due()

    def _report_when_due(self) -> None:
        if self.get_time() - self._reported_at >= self._interval:
            self._reported_at = self.get_time()
            self._report(self.tasks[0])

    def _report(self, task: Task) -> None:
        raise NotImplementedError


class LogLines(_Reporting):
    """For a log: a line with the progress, from time to time.

    Args:
        write: prints a line.
        interval: seconds between two lines.
    """

    def __init__(self, write: Callable[[str], None], interval: float) -> None:
        super().__init__(interval, speed_estimate_period=20 * interval)
        self._write = write

    def _report(self, task: Task) -> None:
        self._write(f"  {task.description}: {status(task)}")


class NotebookBar(_Reporting):
    """For Jupyter: an HTML bar that is updated in place. It needs no ipywidgets."""

    def __init__(self) -> None:
        super().__init__(NOTEBOOK_INTERVAL_SECONDS)
        self._handle: Any = None

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        number = super().add_task(*arguments, **options)
        self._report(self.tasks[0])
        return number

    def stop(self) -> None:
        super().stop()
        if self.tasks:
            self._report(self.tasks[0])

    def _report(self, task: Task) -> None:
        from IPython.display import HTML, display

        html = HTML(bar_html(task))
        if self._handle is None:
            # The handle updates the same output instead of adding one.
            self._handle = display(html, display_id=True)
        else:
            self._handle.update(html)


def bar_html(task: Task) -> str:
    """One line of HTML: description, bar, status."""
    limits = "" if task.total is None else f' max="{task.total:g}" value="{task.completed:g}"'
    return (
        '<div style="font-family:monospace;white-space:pre">'
        f"{escape(task.description):<34} <progress{limits}></progress> {escape(status(task))}</div>"
    )
