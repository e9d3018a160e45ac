"""Estimated time and memory of training and evaluating an encoder: a few steps of the real trainer
and a few batches, extrapolated by the number of tokens."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prooftune.models import adapters, encoder, loading
from prooftune.models.encoder import EncodedText, EncoderTokenizer
from prooftune.recipe import Variant
from prooftune.training.arguments import training_arguments
from prooftune.training.encoder_objective import EncoderModule, encoder_collator, encoder_rows
from prooftune.training.rows import TrainingRow
from prooftune.training.trainer import train
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.encoder import base_folder, default_options, encoder_to_train
from prooftune.variants.measured_training import StepTimer, measured_options, training_rate
from prooftune.variants.memory_model import MeasuredRate
from prooftune.variants.time_budget import TimeBudget

SCORED_ROWS = 128
"""Test rows that are predicted."""
FORWARD_SHARE = 0.5
"""Time per token of a forward pass as a share of a training step's, until it is measured."""
EVALUATIONS = 4
"""Evaluations of the validation rows per training, for the loss and for the metrics."""


def estimate_encoder(
    context: VariantContext, variant: Variant, name: str, budget: TimeBudget
) -> tuple[float, float, float, float, float, bool]:
    """Estimate one training and its predictions.

    Returns:
        Seconds of training, of the test rows and of everything; peak memory and weights in bytes;
        whether the budget had no room for whole batches.
    """
    recipe, study = context.recipe, context.study
    tokenizer = encoder.load_tokenizer(
        base_folder(context), recipe.prompt.max_length, recipe.model.trust_remote_code
    )
    model = encoder_to_train(context, variant, recipe.training_seed(name))
    trainable, total = adapters.trainable_counts(model)
    options = {**default_options(variant, total), **variant.training}
    batch = int(options.get("per_device_train_batch_size", 16))
    window = batch * int(options.get("gradient_accumulation_steps", 1))
    epochs = float(options["num_train_epochs"])
    if int(options.get("max_steps", -1)) > 0:
        epochs = int(options["max_steps"]) * window / len(study.train)
    steps = epochs * len(study.train) / batch
    share = budget.share(0.7)
    training = _training_rate(context, model, tokenizer, batch, steps, options, share)
    test = tokenizer.encode([e.inputs for e in study.test])
    # Evenly spaced, since files may be sorted by label or by length.
    spread = test[:: max(1, len(test) // SCORED_ROWS)]
    most = budget.seconds_left / (FORWARD_SHARE * training.seconds)
    sums = itertools.accumulate(len(row.ids) for row in spread)
    sample = [row for row, total in zip(spread, sums, strict=True) if total <= most] or spread[:1]
    with profiling.measure_cost() as scoring:
        encoder.label_log_probs(
            model.eval(),
            tokenizer,
            sample,
            dtype=loading.compute_dtype(recipe.model.dtype),
            batch_tokens=recipe.scoring.fixed_batch_tokens,
        )
    # Extrapolated by tokens, which determine the time of a small encoder.
    rate = scoring.seconds / _tokens(sample)
    validation = tokenizer.encode([e.inputs for e in study.validation])
    tokens = _tokens(tokenizer.encode([e.inputs for e in study.train]))
    # Twice for each evaluation: once for the loss, once for the metrics.
    train_seconds = training.seconds * tokens * epochs + 2 * EVALUATIONS * rate * _tokens(
        validation
    )
    score_seconds = rate * _tokens(test)
    seconds = train_seconds + score_seconds + rate * _tokens(validation)
    memory = max(
        training.initial_bytes + training.additional_bytes, float(scoring.peak_memory_bytes)
    )
    is_extrapolated = training.is_extrapolated or len(sample) < len(spread)
    return train_seconds, score_seconds, seconds, memory, 4.0 * trainable, is_extrapolated


def _tokens(rows: Sequence[EncodedText]) -> int:
    return sum(len(row.ids) for row in rows)


def _training_rate(
    context: VariantContext,
    model: nn.Module,
    tokenizer: EncoderTokenizer,
    batch: int,
    steps: float,
    options: dict[str, Any],
    budget: TimeBudget,
) -> MeasuredRate:
    """Measure a few steps of the real trainer."""
    labels = context.study.labels
    rows = encoder_rows(context.study.train, tokenizer, context.label_sets or labels)
    sets = context.label_set_matrix()

    def run_steps(padded: Sequence[TrainingRow], size: int) -> tuple[list[float], profiling.Cost]:
        timer = StepTimer()
        with tempfile.TemporaryDirectory() as folder:
            arguments = training_arguments(
                {**options, **measured_options(len(padded), size)},
                Path(folder),
                rows=len(padded),
                validation=0,
                seed=context.recipe.seed,
                dtype=loading.compute_dtype(context.recipe.model.dtype),
                patience=None,
            )
            with profiling.measure_cost() as cost:
                train(
                    EncoderModule(model, sets),
                    list(padded),
                    [],
                    [],
                    arguments,
                    callbacks=[timer],
                    description=None,
                    collator=encoder_collator(tokenizer),
                )
        return timer.seconds, cost

    sampling = str(options.get("train_sampling_strategy", "group_by_length"))
    return training_rate(run_steps, rows, 0, batch, steps, sampling, context.recipe.seed, budget)
