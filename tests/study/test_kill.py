"""The real command killed without warning at three moments, then run again: nothing is lost and
nothing differs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prooftune.utils.files import read_json
from study.small import details_of, predictions_of, small_recipe, steps_kept

PATIENCE = 120
"""Seconds after which a moment that has not come is a failure."""


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "prooftune", "run", str(recipe), "--out", str(out)]


def kill_when(recipe: Path, out: Path, moment: Callable[[str], bool]) -> str:
    """Run the command on a terminal, kill it at the first sight of `moment`, and return what it had
    shown by then.

    Args:
        moment: given what the terminal shows; looked at again and again.
    """
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environment = {k: v for k, v in os.environ.items() if k != "PROOFTUNE_QUIET"} | {
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    shown, end = "", time.monotonic() + PATIENCE
    with subprocess.Popen(
        command(recipe, out), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        while not moment(shown):
            assert process.poll() is None and time.monotonic() < end, (
                f"the moment never came:\n{shown}"
            )
            try:
                shown += os.read(ours, 65536).decode(errors="replace")
            except OSError:  # nothing new on the terminal
                time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    os.close(ours)
    assert process.returncode == -signal.SIGKILL
    return shown


@pytest.mark.slow
@pytest.mark.failure(18)
def test_killed_three_times_it_ends_as_if_it_had_never_been(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants=dict.fromkeys(["tfidf", "zero-shot", "tuned"]),
        training={
            "learning_rate": 1e-2,
            "max_steps": 120,
            "per_device_train_batch_size": 4,
            "save_steps": 15,
            "eval_steps": 15,
        },
    )
    values["scoring"] = {"batch_tokens": 16}  # one row at a time, so that scoring takes a while
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = subprocess.run(command(recipe, straight), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tuned = killed / "variants" / "tuned"

    kill_when(recipe, killed, lambda _: (killed / "data" / "stage.json").is_file())
    assert (
        not read_json(killed / "data" / "stage.json")["done"] and not (killed / "variants").exists()
    )

    kill_when(recipe, killed, lambda _: bool(steps_kept(killed, "tuned")))
    first = steps_kept(killed, "tuned")
    assert 15 <= first[-1] < 120 and not (tuned / "trained").exists()
    stored = {p: p.stat().st_mtime_ns for p in killed.glob("variants/*/predictions.parquet")}
    assert sorted(p.parent.name for p in stored) == ["tfidf", "zero-shot"]
    torn = killed / ".scores.json.x.tmp"  # as a kill in the middle of writing leaves it
    torn.touch()

    shown = kill_when(recipe, killed, lambda shown: "tuned: test rows" in shown)
    assert f"resuming after step {first[-1]} of 120" in shown
    assert (tuned / "training.json").is_file() and not (tuned / "predictions.parquet").exists()
    trained = (tuned / "training.json").stat().st_mtime_ns

    done = subprocess.run(command(recipe, killed), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tuned / "training.json").stat().st_mtime_ns == trained
    assert {p: p.stat().st_mtime_ns for p in stored} == stored
    assert predictions_of(killed) == predictions_of(straight) and len(predictions_of(killed)) == 6
    assert (
        details_of(killed, "tuned")["weights_sha256"]
        == details_of(straight, "tuned")["weights_sha256"]
    )
    assert read_json(killed / "scores.json") == read_json(straight / "scores.json")
    assert not list(killed.rglob("*.tmp")) and not (tuned / "checkpoints").exists()
    assert {p.name for p in killed.iterdir()} == {p.name for p in straight.iterdir()}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of threads in every run: sums in another order differ in the last digit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
