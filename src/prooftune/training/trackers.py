"""Experiment trackers (TensorBoard, W&B, MLflow, ...): have them write into the run folder."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.utils import distributed

if TYPE_CHECKING:
    from transformers import TrainingArguments


def tracker_variables(logs: Path, project: str, run_name: str) -> dict[str, str]:
    """Environment variables that set the trackers' folder, project and run name.

    Args:
        logs: the folder to write into.
        project: name by which trackers group runs.
        run_name: name of this run.
    """
    # Those that keep runs apart themselves share a folder, so that variants can be compared there.
    shared = str(logs.parent.resolve())
    sqlite = importlib.util.find_spec("sqlalchemy") is not None  # not in mlflow-skinny
    return {
        "TENSORBOARD_LOGGING_DIR": str(logs.resolve()),
        "WANDB_DIR": shared,
        "WANDB_PROJECT": project,
        "WANDB_NAME": run_name,
        "MLFLOW_TRACKING_URI": f"sqlite:///{shared}/mlflow.db"
        if sqlite
        else f"file:{shared}/mlruns",
        "MLFLOW_EXPERIMENT_NAME": project,
        "TRACKIO_DIR": f"{shared}/trackio",
        "SWANLAB_LOG_DIR": f"{shared}/swanlab",
        "SWANLAB_PROJECT": project,
        "COMET_OFFLINE_DIRECTORY": f"{shared}/comet",
    }


@contextmanager
def tracking(
    arguments: TrainingArguments, logs: Path | None, project: str, *, fresh: bool
) -> Iterator[None]:
    """Have the trackers of ``report_to`` write into `logs`. Variables set by the user win.

    Args:
        arguments: the `TrainingArguments`.
        logs: the folder of one training; None: change nothing.
        project: name by which trackers group runs.
        fresh: whether training starts from scratch; logs of an earlier attempt are then moved to
            ``NAME.1``, ``NAME.2``, ...
    """
    if logs is None or not arguments.report_to:
        yield
        return
    # Rank 0 alone reports.
    if fresh and not distributed.rank() and logs.is_dir() and any(logs.iterdir()):
        logs.rename(next(p for n in itertools.count(1) if not (p := _numbered(logs, n)).exists()))
    logs.mkdir(parents=True, exist_ok=True)
    variables = tracker_variables(logs, project, arguments.run_name or logs.name)
    added = {key: value for key, value in variables.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        _finish(arguments, logs)
        for key in added:
            os.environ.pop(key, None)


def _numbered(logs: Path, number: int) -> Path:
    return logs.with_name(f"{logs.name}.{number}")


def _finish(arguments: TrainingArguments, logs: Path) -> None:
    """Close the W&B run, or it would continue in the next variant, and copy CodeCarbon's files."""
    wandb = sys.modules.get("wandb")
    if "wandb" in arguments.report_to and wandb is not None and wandb.run is not None:
        wandb.finish()
        wandb.teardown()  # the next study of this process has a folder of its own
    # CodeCarbon writes next to the checkpoints, which are deleted.
    for file in Path(str(arguments.output_dir)).glob("emissions*.csv"):
        shutil.copy2(file, logs)
