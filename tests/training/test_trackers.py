"""Trackers write into the run folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from prooftune.training.trackers import tracker_variables, tracking

ARGUMENTS = SimpleNamespace(report_to=["tensorboard"], run_name="study/tuned", output_dir="none")


def test_folders_are_set_while_training_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs" / "tuned"
    variables = tracker_variables(logs, "study", "study/tuned")
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    with tracking(ARGUMENTS, logs, "study", fresh=True):
        assert {name: os.environ[name] for name in variables} == variables
        assert logs.is_dir()
    assert not variables.keys() & os.environ.keys()
    assert all(
        str(tmp_path / "logs") in value for value in variables.values() if "/" in value[1:]
        and not value.startswith("study")
    )  # fmt: skip


def test_the_environment_of_the_user_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "/elsewhere")
    with tracking(ARGUMENTS, tmp_path / "logs" / "tuned", "study", fresh=True):
        assert os.environ["WANDB_DIR"] == "/elsewhere"
    assert os.environ["WANDB_DIR"] == "/elsewhere"


def test_logs_of_an_earlier_training_are_moved_aside_unless_it_is_resumed(tmp_path: Path) -> None:
    logs = tmp_path / "logs" / "tuned"
    for fresh in (True, True, False):
        with tracking(ARGUMENTS, logs, "study", fresh=fresh):
            (logs / "events").write_text((logs / "events").exists() * "again")
    assert (logs / "events").read_text() == "again"
    assert (tmp_path / "logs" / "tuned.1" / "events").read_text() == ""
    assert not (tmp_path / "logs" / "tuned.2").exists()


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    nobody = SimpleNamespace(report_to=[], run_name=None, output_dir="none")
    with tracking(nobody, tmp_path / "logs" / "tuned", "study", fresh=True):
        assert not (tmp_path / "logs").exists()
