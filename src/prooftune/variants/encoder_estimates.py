"""Estimated time and memory of training and evaluating an encoder: a few steps of the real trainer
and a few batches, extrapolated by the number of tokens."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from prooftune.models import adapters, encoder, loading
from prooftune.models.encoder import EncodedText, EncoderTokenizer
from prooftune.recipe import Variant
from prooftune.training.arguments import training_arguments
from prooftune.training.encoder_objective import EncoderModule, encoder_collator, encoder_rows
from prooftune.training.trainer import train
from prooftune.utils import profiling
from prooftune.variants.context import VariantContext
from prooftune.variants.encoder import base_folder, default_options, encoder_to_train

MEASURED_STEPS = 3
"""Steps after the first, which is slower and has the longest rows."""
EVALUATIONS = 4
"""Evaluations of the validation rows per training, for the loss and for the metrics."""


class _StepTimer(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.seconds.append(-time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds[-1] += time.perf_counter()


def estimate_encoder(
    context: VariantContext, variant: Variant, name: str
) -> tuple[float, float, float, float, float]:
    """Estimate one training and its predictions.

    Returns:
        Seconds of training, of the test rows and of everything; peak memory and weights in bytes.
    """
    recipe, study = context.recipe, context.study
    tokenizer = encoder.load_tokenizer(base_folder(context), recipe.prompt.max_length)
    model = encoder_to_train(context, variant, recipe.training_seed(name))
    trainable, total = adapters.trainable_counts(model)
    options = {**default_options(variant, total), **variant.training}
    batch = int(options.get("per_device_train_batch_size", 16))
    window = batch * int(options.get("gradient_accumulation_steps", 1))
    epochs = float(options["num_train_epochs"])
    if int(options.get("max_steps", -1)) > 0:
        epochs = int(options["max_steps"]) * window / len(study.train)
    with profiling.measure_cost() as training:
        per_token = _seconds_per_token(context, model, tokenizer, batch, options)
    test = tokenizer.encode([e.inputs for e in study.test])
    sample = test[:: max(1, len(test) // 128)]
    with profiling.measure_cost() as scoring:
        encoder.label_log_probs(
            model.eval(),
            tokenizer,
            sample,
            dtype=loading.compute_dtype(recipe.model.dtype),
            batch_tokens=recipe.scoring.fixed_batch_tokens,
        )
    rate = scoring.seconds / _tokens(sample)
    validation = tokenizer.encode([e.inputs for e in study.validation])
    tokens = _tokens(tokenizer.encode([e.inputs for e in study.train]))
    train_seconds = per_token * tokens * epochs + 2 * EVALUATIONS * rate * _tokens(validation)
    score_seconds = rate * _tokens(test)
    seconds = train_seconds + score_seconds + rate * _tokens(validation)
    memory = max(training.peak_memory_bytes, scoring.peak_memory_bytes)
    return train_seconds, score_seconds, seconds, memory, 4.0 * trainable


def _tokens(rows: Sequence[EncodedText]) -> int:
    return sum(len(row.ids) for row in rows)


def _seconds_per_token(
    context: VariantContext,
    model: nn.Module,
    tokenizer: EncoderTokenizer,
    batch: int,
    options: dict[str, Any],
) -> float:
    """Run a few steps: the longest rows first, for the peak memory, then batches over the lengths,
    whose lower median is the time per token."""
    rows = encoder_rows(context.study.train, tokenizer, context.study.labels)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    starts = [len(order) * part // (MEASURED_STEPS + 1) for part in range(1, MEASURED_STEPS + 1)]
    batches = [order[:batch], *(order[start : start + batch] for start in starts)]
    # Short batches are filled with repeated rows, so that every step has exactly one batch.
    padded = [rows[i] for b in batches for i in itertools.islice(itertools.cycle(b), batch)]
    overrides = {
        "max_steps": len(batches),
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "gradient_accumulation_steps": 1,
        "report_to": "none",
    }
    timer = _StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            {**options, **overrides},
            Path(folder),
            rows=len(padded),
            validation=0,
            seed=context.recipe.seed,
            dtype=loading.compute_dtype(context.recipe.model.dtype),
            patience=None,
        )
        train(
            EncoderModule(model),
            padded,
            [],
            [],
            arguments,
            callbacks=[timer],
            description=None,
            collator=encoder_collator(tokenizer),
        )
    sizes = [
        sum(len(row) for row in padded[start : start + batch])
        for start in range(batch, len(padded), batch)
    ]
    return statistics.median_low(
        [seconds / size for seconds, size in zip(timer.seconds[1:], sizes, strict=True)]
    )
