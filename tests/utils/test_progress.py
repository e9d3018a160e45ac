"""What is shown while work goes on: nothing that is no text on anything but a terminal, nothing at
all when quiet."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prooftune.utils import bars, progress


@pytest.fixture
def fresh() -> Iterator[None]:
    """A console that is made anew in the test, and again after it."""
    progress.console.cache_clear()
    yield
    progress.console.cache_clear()


def work() -> None:
    progress.notify("data: 3 rows")
    with progress.progress_bar("Scoring", 3) as bar, progress.spinner("Fetching"):
        bar.advance(0, 3)  # type: ignore[arg-type]
    assert list(progress.track(iter("abc"), "Reading", 3)) == ["a", "b", "c"]


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 120) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress,
        "console",
        lambda: Console(file=screen, force_terminal=True, width=width, highlight=False),
    )
    return screen


@pytest.mark.usefixtures("fresh")
def test_lines_and_no_bars_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PROOFTUNE_QUIET")
    work()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["data: 3 rows", "  Scoring", "  Fetching", "  Reading"]


@pytest.mark.usefixtures("fresh")
def test_lines_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PROOFTUNE_QUIET")
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress.progress_bar("Training [x]", 4000) as bar:
        for step in (1000, 2000, 3000, 4000):
            clock[0] += 20
            bar.update(0, completed=step)  # type: ignore[arg-type]
    with progress.progress_bar("Reading", None) as bar:
        clock[0] += 40
        bar.advance(0, 7)  # type: ignore[arg-type]
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines if ":" in line] == [
        "  Training [x]: 2",
        "  Training [x]: 4",
        "  Reading: 7",
    ]
    assert "2,000 of 4,000, 50/s, 0:00:40 left" in lines[1] and len(lines) == 5


@pytest.mark.usefixtures("fresh")
def test_nothing_at_all_when_quiet(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROOFTUNE_QUIET", "1")
    work()
    assert capfd.readouterr() == ("", "")


def test_a_part_advances_the_bar_that_it_is_in_by_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, seen = on_terminal(monkeypatch), []
    with progress.progress_bar("Predicting", 40) as whole:
        for size, total in ((30, 60), (10, 5), (0, 0)):
            with progress.progress_bar(progress.Subtask(whole, size), total) as part:
                for _ in range(total):
                    part.advance(0)  # type: ignore[arg-type]
                    seen.append(whole.tasks[0].completed)
    assert seen == [*(step / 2 for step in range(1, 61)), 32, 34, 36, 38, 40]
    assert "40/40" in screen.getvalue()


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    with progress.progress_bar("Scoring", 3) as bar:
        bar.advance(0, 3)  # type: ignore[arg-type]
    assert "Scoring" in screen.getvalue()
    assert "3/3" in screen.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_bar_keeps_to_its_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    screen = on_terminal(monkeypatch, width)
    with progress.progress_bar("tuned-with-retrieval: training (loss 3.068)", 12) as bar:
        bar.advance(0, 12)  # type: ignore[arg-type]
    lines = [
        line
        for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", screen.getvalue()).splitlines()
        if line.strip()
    ]
    assert lines and all(
        "tuned-with-retrieval: training (loss 3.068)" in line and "12/12" in line for line in lines
    )


def test_lines_on_a_terminal_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch, 20)
    progress.notify("somewhere between words and not within")
    assert [line.strip() for line in screen.getvalue().splitlines()] == [
        "somewhere between",
        "words and not within",
    ]


def test_a_notebook_has_one_bar_that_is_updated_in_place(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, html: Any) -> None:
            shown.append(html.data)

    def display(html: Any, display_id: bool) -> Handle:
        assert display_id and not shown
        shown.append(html.data)
        return Handle()

    ipython = SimpleNamespace(HTML=lambda data: SimpleNamespace(data=data), display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.setattr(progress, "console", lambda: Console(force_jupyter=True))
    monkeypatch.setattr(bars, "NOTEBOOK_INTERVAL_SECONDS", 0.0)
    with progress.progress_bar("tuned <b>", 4) as bar:
        for _ in range(4):
            bar.advance(0)  # type: ignore[arg-type]
    assert 'max="4" value="0"' in shown[0]
    assert 'max="4" value="4"' in shown[-1] and "4 of 4" in shown[-1] and "in 0:00:0" in shown[-1]
    assert "tuned &lt;b&gt;" in shown[-1]
    assert not recwarn.list  # rich warns where ipywidgets is missing


def test_no_bar_where_nothing_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    with progress.progress_bar(None, 3) as bar:
        bar.advance(0, 3)  # type: ignore[arg-type]
    assert screen.getvalue() == ""


def test_brackets_of_names_and_labels_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = on_terminal(monkeypatch)
    progress.notify("ag_news[train]: label '[/b]' twice", "yellow")
    with progress.spinner("Fetching x[/y]"), pytest.raises(KeyError):
        raise KeyError
    assert "ag_news[train]: label '[/b]' twice" in screen.getvalue()
    assert "Fetching x[/y]" in screen.getvalue()
    screen.truncate(0)
    with progress.progress_bar("[/tuned]: training", 1):
        pass
    assert "[/tuned]: training" in screen.getvalue()
