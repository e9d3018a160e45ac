"""A training that is ready to run: module, rows, arguments and options of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import TrainingArguments

from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow
from prooftune.variant_details import LogEntry


@dataclass
class TrainingSetup:
    """A training, for a variant's result and for a trial of the hyperparameter search alike.

    Attributes:
        module: the module to train.
        rows, validation: training and validation rows.
        arguments: `TrainingArguments`.
        run: `training.trainer.train` with all of the above; takes its keyword arguments.
        keeps_checkpoints: whether the recipe asks for the checkpoints.
    """

    module: TuningModule
    rows: Sequence[TrainingRow]
    validation: Sequence[TrainingRow]
    arguments: TrainingArguments
    run: Callable[..., list[LogEntry]]
    keeps_checkpoints: bool
