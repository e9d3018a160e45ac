"""Measured time per token and memory of training, from a few steps of the real trainer."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from prooftune.models import adapters, loading
from prooftune.recipe import Variant
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.arguments import (
    chosen_checkpointing,
    default_learning_rate,
    training_arguments,
)
from prooftune.training.rows import TrainingRow
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trainer import train
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.memory_model import (
    TRAINING_GROWTH,
    MeasuredRate,
    additional_memory,
)
from prooftune.variants.objectives import build_objective
from prooftune.variants.time_budget import LEAST_SECONDS, STUDY_SHARE, TimeBudget

_TIMED_TOKENS = 8192
"""Training tokens to time, in two to four steps: one step alone may be slowed down by other
processes, or by kernels that are compiled for a new shape."""


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        # Minus the start; `on_step_end` adds the end.
        self.seconds.append(-time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds[-1] += time.perf_counter()


Steps = Callable[[Sequence[TrainingRow], int], tuple[list[float], profiling.Cost]]
"""Training rows and rows per step -> seconds of every step, and the cost of all."""


def measure_training(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    rows: Sequence[TrainingRow],
    batch: int,
    steps_in_training: float,
    options: dict[str, Any],
    budget: TimeBudget | None = None,
) -> MeasuredRate:
    """Run a few steps of the real trainer.

    The longest rows come first (peak memory), then batches spread over the epoch, whose lower
    median is the time per token.

    Args:
        context, variant, encoder, model: the training to measure.
        rows: training rows.
        batch: rows of a step.
        steps_in_training: number of steps of the whole training.
        options: training options of the recipe.
        budget: how long this may take, but for two steps of one short row. Default: no limit.
    """

    def run_steps(padded: Sequence[TrainingRow], size: int) -> tuple[list[float], profiling.Cost]:
        return _train_steps(context, variant, encoder, model, padded, size, options)

    return training_rate(
        run_steps,
        rows,
        len(encoder.prefix),
        batch,
        steps_in_training,
        str(options.get("train_sampling_strategy", "group_by_length")),
        context.recipe.seed,
        budget or TimeBudget(),
    )


def training_rate(
    run_steps: Steps,
    rows: Sequence[TrainingRow],
    prefix: int,
    batch: int,
    steps_in_training: float,
    sampling: str,
    seed: int,
    budget: TimeBudget,
) -> MeasuredRate:
    """Choose the steps to run and extrapolate from them; arguments as for `measure_training`.

    Args:
        run_steps: trains on rows, in order.
        prefix: tokens of the shared prefix, which every step computes.
    """
    lengths = [len(row) for row in rows]
    by_length = sorted(range(len(rows)), key=lambda i: -lengths[i])
    longest = by_length[:batch]
    # The batches of a real epoch, with its padding.
    order = list(LengthGroupedBatchSampler(lengths, batch, seed, sampling))
    steps = min(4, max(2, _TIMED_TOKENS * len(rows) // (batch * sum(lengths))))
    # Evenly spaced, without the epoch's first and last batch.
    typical = [order[len(order) * part // (steps + 1)] for part in range(1, steps + 1)]
    size, batches = batch, [longest, *typical]
    if budget.is_limited:
        seconds, _ = run_steps([rows[by_length[-1]]] * 2, 1)  # the first may compile kernels
        rate = seconds[-1] / (prefix + lengths[by_length[-1]])
        whole = rate * steps_in_training * (prefix + batch * sum(lengths) / len(lengths))
        budget = budget.at_most(max(LEAST_SECONDS, STUDY_SHARE * whole))
        affordable = budget.seconds_left / rate
        size = _affordable_batch(batches, lengths, prefix, batch, affordable)
        if size < batch:
            # Smaller batches and fewer steps: the longest and two others.
            batches = [longest[:size], *(part[:size] for part in typical[:2])]
    # Short batches are padded with repeated rows, so that every step has exactly one batch.
    padded = [
        rows[i] for numbers in batches for i in itertools.islice(itertools.cycle(numbers), size)
    ]
    seconds, cost = run_steps(padded, size)
    tokens = [prefix + sum(map(len, padded[at : at + size])) for at in range(0, len(padded), size)]
    # Without the first step, which has the longest rows and may compile kernels.
    rates = [spent / count for spent, count in zip(seconds[1:], tokens[1:], strict=True)]
    # Activations grow with a step's tokens, so the memory of smaller steps is scaled up.
    full = prefix + sum(lengths[i] for i in itertools.islice(itertools.cycle(longest), batch))
    before = cost.memory_before_bytes
    peak = before + int((cost.peak_memory_bytes - before) * max(1.0, full / tokens[0]))
    return MeasuredRate(
        # Not the mean: other processes may slow down a single step.
        statistics.median_low(rates),
        before,
        additional_memory(before, peak, steps_in_training, TRAINING_GROWTH),
        is_extrapolated=size < batch,
    )


def _affordable_batch(
    batches: Sequence[Sequence[int]],
    lengths: Sequence[int],
    prefix: int,
    batch: int,
    affordable: float,
) -> int:
    """Rows per step with which the steps take at most `affordable` tokens: all, or so many that the
    longest and two others do; at least one."""
    needed = sum(prefix + sum(lengths[i] for i in numbers) for numbers in batches)
    if needed <= affordable:
        return batch
    three = sum(sum(lengths[i] for i in numbers) for numbers in batches[:3])
    return max(1, min(batch, int(batch * (affordable - 3 * prefix) / three)))


def measured_options(rows: int, batch: int) -> dict[str, Any]:
    """Training options for steps of `batch` rows in order, which leave nothing behind."""
    return {
        "per_device_train_batch_size": batch,
        "max_steps": rows // batch,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "gradient_accumulation_steps": 1,
        "report_to": "none",
    }


def _train_steps(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    rows: Sequence[TrainingRow],
    batch: int,
    options: dict[str, Any],
) -> tuple[list[float], profiling.Cost]:
    """Seconds of every step over `rows` in order, and the cost of all."""
    settings = {**options, **measured_options(len(rows), batch)}
    clock = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            settings,
            Path(folder),
            rows=len(rows),
            validation=0,
            seed=context.recipe.seed,
            dtype=loading.compute_dtype(context.recipe.model.dtype),
            patience=None,
            learning_rate=default_learning_rate(
                adapters.trainable_counts(model)[1], variant.method
            ),
        )
        objective = build_objective(context, variant, encoder, model, with_reference=False)
        with profiling.measure_cost() as cost:
            train(
                objective.module,
                list(rows),
                [],
                encoder.prefix,
                arguments,
                int8=context.recipe.model.int8_training,
                callbacks=[clock],
                collator=objective.collator,
                description=None,
                checkpointing=chosen_checkpointing(options),
            )
    return clock.seconds, cost
