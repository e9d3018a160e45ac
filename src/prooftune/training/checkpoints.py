"""Checkpoints of an interrupted training: which one to resume from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prooftune.utils import distributed

ELAPSED = "seconds.json"
"""File in a checkpoint with the training time up to it, in seconds."""


def elapsed_seconds(checkpoint: Path | None) -> float:
    """Training time up to a checkpoint, over all attempts; without the time after the checkpoint
    from which each of them resumed."""
    file = checkpoint and checkpoint / ELAPSED
    return float(json.loads(file.read_text())) if file and file.is_file() else 0.0


def has_ended(checkpoint: Path) -> bool:
    """Whether a complete checkpoint is that of the last step: all steps are done, or early stopping
    ended the training there."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    # Early stopping acts before the checkpoint of the same step is written, so that it is in there.
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] or bool(control.get("should_training_stop"))


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones are removed.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint in which it can be read is
    complete.
    """
    # By number: as text, checkpoint-1000 would come before checkpoint-200.
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True
    )
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            # One process removes it: the folder is shared by all ranks of a machine.
            if distributed.rank() == 0:
                shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None
