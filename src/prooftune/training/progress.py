"""Progress, threads and log of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rich.progress import Progress, TaskID
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prooftune.engine.threads import ThreadsByContention
from prooftune.utils.progress import progress_bar
from prooftune.variant_details import LogEntry


class TrainingProgress(TrainerCallback):  # type: ignore[misc]
    """A progress bar with steps, time left and the last training loss."""

    def __init__(self, description: str | None) -> None:
        self._description = description
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        # Closed by `close`: a callback has no with-block around the training.
        self._bar = self._stack.enter_context(progress_bar(self._description, state.max_steps))
        self._bar.update(TaskID(0), completed=state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        if self._bar is not None:
            self._bar.update(TaskID(0), completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs and self._bar is not None and self._description is not None:
            description = f"{self._description} (loss {logs['loss']:.3f})"
            self._bar.update(TaskID(0), description=description)

    def close(self) -> None:
        """Close the bar."""
        self._stack.close()


class StepThreads(TrainerCallback):  # type: ignore[misc]
    """Takes every training step with `threads`."""

    def __init__(self, threads: ThreadsByContention) -> None:
        self._threads = threads

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        self._threads.begin_step()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: object,
    ) -> None:
        self._threads.end_step()


def finite_log(history: Sequence[dict[str, Any]]) -> list[LogEntry]:
    """The Trainer's log with None for values that are not finite, which JSON cannot represent.

    In float16 the loss scaler skips steps whose gradients overflow, and their gradient norm is
    logged as inf or nan. (A loss that is not finite stops the training.)
    """
    cleaned: list[Any] = [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        for entry in history
    ]
    return cleaned
