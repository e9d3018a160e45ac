"""Measured time per token and memory of scoring and training, from a few batches.

A limited `TimeBudget` makes the batches smaller where whole ones would take too long: many labels,
long contexts, a large model. A short row is always computed first and gives the rate by which the
size of all others is chosen; what is not computed is extrapolated by tokens.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from prooftune.engine.batching import batch_by_token_budget
from prooftune.engine.scoring import label_tree
from prooftune.engine.token_budget import token_budget
from prooftune.models import adapters, loading
from prooftune.recipe import Variant
from prooftune.recipe.model import CPU_ANSWERING_TOKENS
from prooftune.tasks import classification
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.arguments import (
    chosen_checkpointing,
    default_learning_rate,
    training_arguments,
)
from prooftune.training.objective import TrainingRow, TuningModule
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trainer import train
from prooftune.types import Example
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.memory_model import (
    SCORING_GROWTH,
    TRAINING_GROWTH,
    MeasuredRate,
    additional_memory,
)
from prooftune.variants.time_budget import TimeBudget

MAX_ROWS = 2000
"""Rows of a split whose tokens are counted; the others are taken to be as long on average."""
_TIMED_TOKENS = 8192
"""Training tokens to time, in two to four steps: one step alone may be slowed down by other
processes, or by kernels that are compiled for a new shape."""
_PROBE_CHARACTERS = 120
"""Length to which the inputs of the first row are cut."""
_LONGEST_SHARE = 0.4
"""Share of a budget for the batch that sets the peak memory; the rest is for the time per token."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts the tokens that scoring computes.

    Attributes:
        encoder: renders the prompts.
        label_tokens: tokens of the label tree, which follow every prompt.
    """

    encoder: PromptEncoder
    label_tokens: int

    def row(self, example: Example) -> int:
        """Tokens of one row without the shared prefix: all windows, and the labels."""
        windows = self.encoder.sliding_windows(example.inputs)
        return sum(len(window.token_ids) for window in windows) + self.label_tokens

    def total(self, rows: Sequence[Example]) -> float:
        """Tokens computed for these rows: their own, and the shared prefix once."""
        counted = evenly_spaced(rows, MAX_ROWS)
        own = sum(map(self.row, counted)) * len(rows) / max(1, len(counted))
        return len(self.encoder.prefix) + own


def token_counter(context: VariantContext, encoder: PromptEncoder, head: bool) -> TokenCounter:
    """The counter of a variant's prompts; with a classification head no labels follow them."""
    scores_labels = (
        context.recipe.task == "classification"
        and not head
        and context.recipe.scoring.method == "likelihood"
    )
    tree = label_tree(encoder.label_ids, encoder.stop_token_id) if scores_labels else None
    return TokenCounter(encoder, len(tree.tokens) if tree else 0)


def evenly_spaced(rows: Sequence[Example], count: int) -> Sequence[Example]:
    """At most `count` rows, spread evenly; all of them if there are no more."""
    if len(rows) <= count:
        return rows
    return [rows[i * len(rows) // count] for i in range(count)]


def measure_scoring(
    context: VariantContext,
    encoder: PromptEncoder,
    model: nn.Module,
    head: bool = False,
    budget: TimeBudget | None = None,
) -> MeasuredRate:
    """Predict the longest batch, which sets the peak memory, then a sample of the test rows twice;
    the faster time counts.

    Args:
        context, encoder, model, head: as for `TaskAdapter.predict`.
        budget: how long this may take, but for one short row. Default: no limit.
    """
    budget = budget or TimeBudget()
    counter = token_counter(context, encoder, head)
    rows = evenly_spaced(context.study.test, MAX_ROWS)
    lengths = [counter.row(example) for example in rows]
    batch_tokens = _batch_tokens(context, counter, model, lengths, head)
    batches = batch_by_token_budget(lengths, batch_tokens)

    def predict(examples: Sequence[Example]) -> tuple[profiling.Cost, int]:
        with profiling.measure_cost() as cost:
            context.task_adapter.predict(model, encoder, examples, head, None)
        return cost, len(encoder.prefix) + sum(map(counter.row, examples))

    probe, tokens, rate = None, 0, 0.0
    if budget.is_limited:
        short = _shortened(rows[min(range(len(rows)), key=lambda i: lengths[i])])
        predict([short])  # the first run may compile kernels and pack weights
        probe, tokens = predict([short])
        rate = probe.seconds / tokens

    def affordable(numbers: Sequence[int], share: float) -> list[Example]:
        """The first rows that a share of the budget has time for."""
        most = budget.seconds_left * share / rate if rate else math.inf
        sums = itertools.accumulate((lengths[i] for i in numbers), initial=len(encoder.prefix))
        fitting = [total <= most for total in sums][1:]
        return [rows[i] for i, fits in zip(numbers, fitting, strict=True) if fits]

    costs = [(probe, tokens)] if probe else []
    longest = affordable(batches[0], _LONGEST_SHARE)
    if longest:
        costs.append(predict(longest))
        if budget.is_limited:
            rate = costs[-1][0].seconds / costs[-1][1]
    numbers = _sample_rows(lengths, batch_tokens)
    sample = affordable(numbers, 0.5)
    timed: list[tuple[profiling.Cost, int]] = []
    if sample:
        timed = [predict(sample)]
        if timed[0][0].seconds <= budget.seconds_left:
            timed.append(predict(sample))
    costs += timed[:1]
    full_batch = len(encoder.prefix) + sum(lengths[i] for i in batches[0])
    return replace(
        _scoring_rate(timed or costs, costs, full_batch, len(batches)),
        is_extrapolated=len(longest) < len(batches[0]) or len(sample) < len(numbers),
    )


def _batch_tokens(
    context: VariantContext,
    counter: TokenCounter,
    model: nn.Module,
    lengths: Sequence[int],
    head: bool,
) -> int:
    """Tokens per batch of predictions."""
    recipe, encoder = context.recipe, counter.encoder
    if recipe.task == "classification":
        rows = [range(length - counter.label_tokens) for length in lengths]
        return classification.batch_budget(model, encoder, rows, recipe.scoring, head=head)
    return token_budget(
        model,
        recipe.answering.batch_tokens,
        CPU_ANSWERING_TOKENS,
        prefix_length=len(encoder.prefix),
        logits_per_token=1 / recipe.answering.max_new_tokens,
        keeps_cache=True,
    )


def _scoring_rate(
    timed: Sequence[tuple[profiling.Cost, int]],
    costs: Sequence[tuple[profiling.Cost, int]],
    full_batch: int,
    batches: int,
) -> MeasuredRate:
    """Time and memory of many batches.

    Args:
        timed: measurements of the same rows with their tokens, of which the fastest counts.
        costs: all measurements in order.
        full_batch: tokens of the largest batch. If no measurement had as many, memory is
            extrapolated in proportion.
        batches: number of batches.
    """
    rate = min(cost.seconds / tokens for cost, tokens in timed)
    # Memory that the first batch leaves behind (kernels, prepacked weights) is a one-time cost.
    before = costs[-1][0].memory_before_bytes
    peak = max(cost.peak_memory_bytes for cost, _ in costs)
    growth = max(1.0, full_batch / max(tokens for _, tokens in costs))
    extrapolated = before + int((peak - before) * growth)
    return MeasuredRate(
        rate, before, additional_memory(before, extrapolated, batches, SCORING_GROWTH)
    )


def _shortened(example: Example) -> Example:
    cut = {name: text[:_PROBE_CHARACTERS] for name, text in example.inputs.items()}
    return replace(example, inputs=cut)


def _sample_rows(lengths: Sequence[int], budget: int) -> list[int]:
    """Indices of rows with about `budget` tokens, in four runs of consecutive rows, because
    neighbours may share a context."""
    count = max(1, int(budget / 4 / (sum(lengths) / len(lengths))))
    starts = {len(lengths) * quarter // 4 for quarter in range(4)}
    return sorted({i for start in starts for i in range(start, min(len(lengths), start + count))})


class StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
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
        context, variant, encoder, model: what is trained.
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
    order = list(LengthGroupedBatchSampler(lengths, batch, seed, sampling))
    steps = min(4, max(2, _TIMED_TOKENS * len(rows) // (batch * sum(lengths))))
    typical = [order[len(order) * part // (steps + 1)] for part in range(1, steps + 1)]
    size, batches = batch, [longest, *typical]
    if budget.is_limited:
        seconds, _ = run_steps([rows[by_length[-1]]] * 2, 1)  # the first may compile kernels
        affordable = budget.seconds_left * (prefix + lengths[by_length[-1]]) / seconds[-1]
        size = _affordable_batch(batches, lengths, prefix, batch, affordable)
        if size < batch:
            batches = [longest[:size], *(part[:size] for part in typical[:2])]
    # Short batches are padded with repeated rows, so that every step has exactly one batch.
    padded = [
        rows[i] for numbers in batches for i in itertools.islice(itertools.cycle(numbers), size)
    ]
    seconds, cost = run_steps(padded, size)
    tokens = [prefix + sum(map(len, padded[at : at + size])) for at in range(0, len(padded), size)]
    rates = [spent / count for spent, count in zip(seconds[1:], tokens[1:], strict=True)]
    full = prefix + sum(lengths[i] for i in itertools.islice(itertools.cycle(longest), batch))
    before = cost.memory_before_bytes
    peak = before + int((cost.peak_memory_bytes - before) * max(1.0, full / tokens[0]))
    return MeasuredRate(
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
        with profiling.measure_cost() as cost:
            train(
                TuningModule(model),
                list(rows),
                [],
                encoder.prefix,
                arguments,
                int8=context.recipe.model.int8_training,
                callbacks=[clock],
                description=None,
                checkpointing=chosen_checkpointing(options),
            )
    return clock.seconds, cost
