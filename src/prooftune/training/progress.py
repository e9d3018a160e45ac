"""Progress and log of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from prooftune.utils.progress import progress_bar
from prooftune.variant_details import LogEntry


class TrainingProgress(TrainerCallback):  # type: ignore[misc]
    """A progress bar with steps, time left and the last training loss."""

    def __init__(self, description: str | None) -> None:
        self._description = description
        self._context: Any = None
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._context = progress_bar(self._description, state.max_steps)
        self._bar = self._context.__enter__()
        self._bar.update(0, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(0, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs and self._bar is not None and self._description is not None:
            self._bar.update(0, description=f"{self._description} (loss {logs['loss']:.3f})")

    def close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)


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
