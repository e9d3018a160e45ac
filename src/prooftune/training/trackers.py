"""Where experiment trackers write: into the run folder, where what they write is kept."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def tracker_variables(logs: Path, project: str, run_name: str) -> dict[str, str]:
    """Environment variables by which trackers find their folder, project and run name.

    Args:
        logs: the folder.
        project: for trackers that group runs.
        run_name: for trackers that take it from the environment.
    """
    folder = str(logs.resolve())
    return {
        "TENSORBOARD_LOGGING_DIR": folder,
        "WANDB_DIR": folder,
        "WANDB_PROJECT": project,
        "WANDB_NAME": run_name,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": project,
        "TRACKIO_DIR": f"{folder}/trackio",
        "SWANLAB_LOG_DIR": f"{folder}/swanlab",
        "SWANLAB_PROJECT": project,
        "COMET_OFFLINE_DIRECTORY": f"{folder}/comet",
    }


@contextmanager
def tracking(arguments: Any, logs: Path | None, project: str, *, fresh: bool) -> Iterator[None]:
    """Have the trackers of ``report_to`` write into `logs`, unless the environment says otherwise.

    Args:
        arguments: the `TrainingArguments`.
        logs: the folder of one training; None: nothing is set.
        project: for trackers that group runs.
        fresh: whether the training starts anew; what an earlier one logged is then moved aside.
    """
    if logs is None or not arguments.report_to:
        yield
        return
    if fresh and logs.is_dir() and any(logs.iterdir()):
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


def _finish(arguments: Any, logs: Path) -> None:
    """End what would go on into the next variant, and keep what was written elsewhere."""
    wandb = sys.modules.get("wandb")
    if "wandb" in arguments.report_to and wandb is not None and wandb.run is not None:
        wandb.finish()
    # CodeCarbon writes beside the checkpoints, which are deleted.
    for file in Path(str(arguments.output_dir)).glob("emissions*.csv"):
        shutil.copy2(file, logs)
