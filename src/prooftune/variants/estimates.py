"""Estimated time and memory of every variant on this machine.

A few of its batches are computed, the longest among them, and extrapolated by token count. No
result is stored.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from prooftune.engine.batching import batch_by_token_budget
from prooftune.engine.token_budget import token_budget
from prooftune.models import adapters, loading
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.model import CPU_ANSWERING_TOKENS
from prooftune.tasks import classification
from prooftune.tasks.prompt_encoding import PromptEncoder, Shot
from prooftune.training.arguments import (
    chosen_checkpointing,
    default_learning_rate,
    training_arguments,
)
from prooftune.training.memory import OPTIMIZER_BYTES
from prooftune.training.objective import TrainingRow, TuningModule
from prooftune.training.quality import quality_rows
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trainer import train
from prooftune.types import Example, Study
from prooftune.utils import profiling
from prooftune.utils.progress import spinner
from prooftune.variants.context import VariantContext
from prooftune.variants.document_files import uses_passages
from prooftune.variants.dummy_passages import with_dummy_passages
from prooftune.variants.few_shot import sample_few_shot
from prooftune.variants.memory_model import (
    SCORING_GROWTH,
    TRAINING_GROWTH,
    MeasuredRate,
    MemoryModel,
    additional_memory,
)
from prooftune.variants.passages import PassageProvider
from prooftune.variants.prompting import candidates
from prooftune.variants.tuned import base_to_train, training_rows

_MAX_MEMORY_SHARE = 0.7
"""A model whose weights take more than this share of the free memory is not loaded."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Estimated cost of one variant, of all its trainings together.

    Attributes:
        name: the variant's name.
        train_seconds: training, or the search for a prompt.
        score_seconds: predicting the test rows.
        seconds: everything, with the validation rows.
        memory_bytes: peak memory, of the GPU if there is one, else of the process.
        trainings: number of trainings.
        disk_bytes: trained weights of all trainings, and the checkpoints of one, which are deleted
            when it is finished.
    """

    name: str
    train_seconds: float
    score_seconds: float
    seconds: float
    memory_bytes: float
    trainings: int = 1
    disk_bytes: float = 0.0


_CHECKPOINTS = 3
"""Checkpoints that a training has on disk at most: the two last and the best."""
_OPTIMIZER_STATE = 2
"""AdamW's moments, in 4 bytes for each weight that is trained."""

_TIMED_TOKENS = 8192
"""Training tokens to time, in two to four steps: one step alone may be slowed down by other
processes, or by kernels that are compiled for a new shape."""

_EVALUATIONS_PER_TRAINING, _FORWARD_SHARE = 4, 0.5
"""Evaluations of the validation loss per training, and the time per token of a forward pass as a
share of a training step's."""


def estimate_costs(recipe: Recipe, study: Study, base: Path) -> list[CostEstimate] | None:
    """Estimates for every variant with a language model or an encoder; None if a language model
    does not fit into the free memory."""
    variants = {
        name: variant for name, variant in recipe.variants.items() if variant.uses_language_model
    }
    encoders = _estimate_encoders(recipe, study)
    if not variants:
        return encoders
    free = profiling.available_memory()
    weights = max(_weight_bytes(recipe.for_variant(name), v) for name, v in variants.items())
    if free is not None and weights > _MAX_MEMORY_SHARE * free:
        return None
    estimates, memory = [], MemoryModel()
    model: nn.Module | None = None
    loaded: Recipe | None = None
    # Retrieval has not run yet: sampled passages take its place.
    with_passages = (
        with_dummy_passages(recipe, study, base)
        if any(map(uses_passages, variants.values()))
        else study
    )
    for name, variant in variants.items():
        with spinner(f"{name}: measuring a few batches"):
            with_retrieval = uses_passages(variant)
            variant_study = (
                with_passages
                if with_retrieval
                else PassageProvider(recipe, Path(), Path()).study_for(study, variant)[0]
            )
            view = recipe.for_variant(name)
            context = VariantContext(view, variant_study, Path(), windowed=not with_retrieval)
            if variant.kind == "tuned":
                model = None
                one = _estimate_tuned(context, variant, name, memory)
                estimates.append(_all_trainings(one, recipe.trainings(name)))
            else:
                if loaded is None or (loaded.model, loaded.quantization) != (
                    view.model,
                    view.quantization,
                ):
                    model = None  # freed before the next one is loaded
                model = model or context.base_model()
                loaded = view
                one = _estimate_prompted(context, variant, name, model, memory)
                # A prompt for tuned weights is scored with those of every training.
                estimates.append(_all_trainings(one, recipe.trainings(name)))
    return [*encoders, *estimates]


def _estimate_encoders(recipe: Recipe, study: Study) -> list[CostEstimate]:
    estimates = []
    for name, variant in recipe.variants.items():
        if variant.kind != "encoder":
            continue
        from prooftune.variants.encoder_estimates import estimate_encoder

        with spinner(f"{name}: measuring a few batches"):
            context = VariantContext(recipe.for_variant(name), study, Path())
            train, score, seconds, memory, weights = estimate_encoder(context, variant, name)
            disk = weights * (1 + _CHECKPOINTS * (1 + _OPTIMIZER_STATE))
            one = CostEstimate(name, train, score, seconds, memory, disk_bytes=disk)
            estimates.append(_all_trainings(one, recipe.trainings(name)))
    return estimates


def _weight_bytes(recipe: Recipe, variant: Variant) -> int:
    """Memory of a variant's weights, and of the optimiser's arrays if all of them are trained."""
    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    if variant.method == "full":
        return loading.weight_bytes(folder, 4 + OPTIMIZER_BYTES)
    itemsize = loading.compute_dtype(recipe.model.dtype).itemsize
    return loading.weight_bytes(folder, itemsize, recipe.quantization)


def _estimate_prompted(
    context: VariantContext, variant: Variant, name: str, model: nn.Module, memory: MemoryModel
) -> CostEstimate:
    study = context.study
    if variant.kind == "prompted":
        rows = (study.validation or study.train)[: variant.validation_rows]
        encoders = candidates(context, variant).values()
        encoder = max(encoders, key=lambda item: _computed_tokens(item, rows))  # any may win
        rate = measure_scoring(context, encoder, model)
        return _cost_estimate(
            name,
            context,
            encoder,
            rate,
            rate.seconds * sum(_computed_tokens(item, rows) for item in encoders),
            memory.peak(rate),
        )
    shots: tuple[Shot, ...] = ()
    if variant.kind == "few-shot":
        shots = sample_few_shot(
            study.train,
            study.strata(),
            variant.shots,
            context.recipe.seed,
            context.task_adapter.target_text,
        )
    encoder = context.encoder(context.rendering(variant.prompt, shots=shots))
    rate = measure_scoring(context, encoder, model)
    return _cost_estimate(name, context, encoder, rate, 0.0, memory.peak(rate))


def _all_trainings(one: CostEstimate, trainings: int) -> CostEstimate:
    """The cost of several trainings, given that of one. Checkpoints are only of one at a time."""
    weights = one.disk_bytes / (1 + _CHECKPOINTS * (1 + _OPTIMIZER_STATE))
    return replace(
        one,
        train_seconds=trainings * one.train_seconds,
        score_seconds=trainings * one.score_seconds,
        seconds=trainings * one.seconds,
        trainings=trainings,
        disk_bytes=one.disk_bytes + (trainings - 1) * weights,
    )


def _estimate_tuned(
    context: VariantContext, variant: Variant, name: str, memory: MemoryModel
) -> CostEstimate:
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    encoder = context.encoder(context.rendering(variant.prompt))
    model = adapters.make_trainable(
        base_to_train(context, variant, recipe.training_seed(name)),
        variant,
        {**recipe.lora, **variant.lora},
    )
    if variant.adapter:  # the weights of another variant: no training
        rate = measure_scoring(context, encoder, model, head)
        return _cost_estimate(name, context, encoder, rate, 0.0, memory.peak(rate))
    options = {**recipe.training, **variant.training}
    batch, epochs = (
        int(options.get("per_device_train_batch_size", 16)),
        float(options.get("num_train_epochs", 2)),
    )
    window = batch * int(options.get("gradient_accumulation_steps", 1))
    if int(options.get("max_steps", -1)) > 0:
        epochs = int(options["max_steps"]) * window / len(study.train)
    rows = training_rows(context, encoder, study.train, head)
    step = _measure_training(context, variant, encoder, model, rows, batch, epochs, options)
    scoring = measure_scoring(context, encoder, model.eval(), head)
    tokens = sum(len(row) for row in rows) + len(encoder.prefix) * math.ceil(len(rows) / batch)
    computed = tokens * epochs + _EVALUATIONS_PER_TRAINING * _FORWARD_SHARE * _computed_tokens(
        encoder, study.validation
    )
    measured = quality_rows(recipe, study.validation, head)
    seconds = step.seconds * computed + (
        _EVALUATIONS_PER_TRAINING * scoring.seconds * _computed_tokens(encoder, measured)
    )
    cost = _cost_estimate(name, context, encoder, scoring, seconds, memory.peak(step, scoring))
    weights = 4 * adapters.trainable_counts(model)[0]
    return replace(cost, disk_bytes=weights * (1 + _CHECKPOINTS * (1 + _OPTIMIZER_STATE)))


def _cost_estimate(
    name: str,
    context: VariantContext,
    encoder: PromptEncoder,
    rate: MeasuredRate,
    train: float,
    memory: float,
) -> CostEstimate:
    test, validation = (
        rate.seconds * _computed_tokens(encoder, rows)
        for rows in (context.study.test, context.study.validation)
    )
    return CostEstimate(name, train, test, train + test + validation, memory)


def measure_scoring(
    context: VariantContext, encoder: PromptEncoder, model: nn.Module, head: bool = False
) -> MeasuredRate:
    """Predict the longest batch, which sets the peak memory, then a sample of the test rows twice;
    the faster time counts."""
    rows = context.study.test
    lengths = [len(encoder.encode(e.inputs).token_ids) for e in rows]
    budget = _batch_tokens(context, encoder, model, lengths, head)
    batches = batch_by_token_budget(lengths, budget)
    sample = [rows[i] for i in _sample_rows(lengths, budget)]
    predict = context.task_adapter.predict
    with profiling.measure_cost() as longest_cost:
        predict(model, encoder, [rows[i] for i in batches[0]], head, None)
    with profiling.measure_cost() as first:
        predict(model, encoder, sample, head, None)
    with profiling.measure_cost() as repeated:
        predict(model, encoder, sample, head, None)
    # Memory that the first batch leaves behind (kernels, prepacked weights) is a one-time cost.
    before, peak = (
        first.memory_before_bytes,
        max(longest_cost.peak_memory_bytes, first.peak_memory_bytes),
    )
    rate = min(first.seconds, repeated.seconds) / _computed_tokens(encoder, sample)
    return MeasuredRate(rate, before, additional_memory(before, peak, len(batches), SCORING_GROWTH))


def _batch_tokens(
    context: VariantContext,
    encoder: PromptEncoder,
    model: nn.Module,
    lengths: Sequence[int],
    head: bool,
) -> int:
    """Tokens per batch of predictions."""
    recipe = context.recipe
    if recipe.task == "classification":
        rows = [range(length) for length in lengths]
        return classification.batch_budget(model, encoder, rows, recipe.scoring, head=head)
    return token_budget(
        model,
        recipe.answering.batch_tokens,
        CPU_ANSWERING_TOKENS,
        prefix_length=len(encoder.prefix),
        logits_per_token=1 / recipe.answering.max_new_tokens,
        keeps_cache=True,
    )


class _StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.seconds.append(-time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds[-1] += time.perf_counter()


def _measure_training(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    rows: Sequence[TrainingRow],
    batch: int,
    epochs: float,
    options: dict[str, Any],
) -> MeasuredRate:
    """Run a few steps of the real trainer.

    The longest rows come first (peak memory), then batches spread over the epoch, whose lower
    median is the time per token.
    """
    lengths = [len(row) for row in rows]
    longest = sorted(range(len(rows)), key=lambda i: -lengths[i])[:batch]
    order = list(
        LengthGroupedBatchSampler(
            lengths,
            batch,
            context.recipe.seed,
            str(options.get("train_sampling_strategy", "group_by_length")),
        )
    )
    steps = min(4, max(2, _TIMED_TOKENS * len(rows) // (batch * sum(lengths))))
    typical = [order[len(order) * part // (steps + 1)] for part in range(1, steps + 1)]
    batches = [longest, *typical]
    encoders = {
        **options,
        "max_steps": len(batches),
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "gradient_accumulation_steps": 1,
        "report_to": "none",
    }
    clock = _StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            encoders,
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
        # Short batches are padded with repeated rows, so that every step has exactly one batch.
        padded_rows = [
            rows[i]
            for numbers in batches
            for i in itertools.islice(itertools.cycle(numbers), batch)
        ]
        with profiling.measure_cost() as longest_cost:
            train(
                TuningModule(model),
                padded_rows,
                [],
                encoder.prefix,
                arguments,
                int8=context.recipe.model.int8_training,
                callbacks=[clock],
                description=None,
                checkpointing=chosen_checkpointing(options),
            )
    tokens = [
        len(encoder.prefix) + sum(map(len, padded_rows[at : at + batch]))
        for at in range(batch, len(padded_rows), batch)
    ]
    before, rates = (
        longest_cost.memory_before_bytes,
        [seconds / n for seconds, n in zip(clock.seconds[1:], tokens, strict=True)],
    )
    return MeasuredRate(
        statistics.median_low(rates),
        before,
        additional_memory(
            before, longest_cost.peak_memory_bytes, len(order) * epochs, TRAINING_GROWTH
        ),
    )


def _computed_tokens(encoder: PromptEncoder, rows: Sequence[Example]) -> int:
    """Tokens computed for these rows: their own, and the shared prefix once."""
    return len(encoder.prefix) + sum(len(encoder.encode(e.inputs).token_ids) for e in rows)


def _sample_rows(lengths: Sequence[int], budget: int) -> list[int]:
    """Indices of rows with about `budget` tokens, in four runs of consecutive rows, because
    neighbours may share a context."""
    count = max(1, int(budget / 4 / (sum(lengths) / len(lengths))))
    starts = {len(lengths) * quarter // 4 for quarter in range(4)}
    return sorted({i for start in starts for i in range(start, min(len(lengths), start + count))})
