"""What every variant will cost on this machine: a few of its own batches are computed, the longest
among them, and the rest follows by their tokens. Nothing that is computed here is kept."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prooftune.engine.batching import batch_by_token_budget
from prooftune.models import adapters, loading
from prooftune.recipe import Recipe, Variant
from prooftune.tasks.prompts import PromptEncoder, Shot
from prooftune.training.arguments import default_learning_rate, training_arguments
from prooftune.training.objective import TrainingRow, TuningModule
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trainer import train
from prooftune.types import Example, Study
from prooftune.utils import profiling
from prooftune.utils.progress import spinner
from prooftune.variants.context import VariantContext
from prooftune.variants.dummy_passages import with_dummy_passages
from prooftune.variants.passages import PassageProvider, uses_passages
from prooftune.variants.prompting import candidates, sample_few_shot
from prooftune.variants.tuned import base_to_train, training_rows

_FITS = 0.7
"""Share of the free memory above which a model is not even loaded."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Estimated cost of one variant.

    Attributes:
        name: of the variant.
        train_seconds: of training, or of the search for a prompt.
        score_seconds: of the test rows.
        seconds: of everything, validation rows included.
        memory_bytes: peak.
    """

    name: str
    train_seconds: float
    score_seconds: float
    seconds: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class _Rate:
    """Seconds per computed token, the memory in use before, and how much more there is at most
    while many batches are computed."""

    seconds: float
    before_bytes: int
    more_bytes: float


_TIMED = 8192
"""Tokens of training that are timed, in two to four steps: what else runs on the machine can slow
one down, and so can kernels that are made for a size that comes again and again later."""

_GROWS_ASKED, _GROWS_LEARNING, _STAYS = 0.65, 0.2, 0.4
"""Of a heap, as measured on what few batches take: how much more it is after many (an array does
not fit where one of another size was, and something small keeps the gap open; less so in training,
which keeps its memory from step to step), and how much of the most that there was stays after a
variant."""

_EVALUATIONS, _FORWARD = 4, 0.5
"""Evaluations of the validation rows' loss in a training, and the share of a step's time that a
token takes in them."""


class _Process:
    """The memory of a process that computes one variant after another."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._most = 0.0

    def peak(self, *rates: _Rate) -> float:
        """Bytes at most in the next variant."""
        if self._first is None:
            self._first = min(rate.before_bytes for rate in rates)
        least = self._first + (0.0 if profiling.on_gpu() else _STAYS * self._most)
        self._most = max(self._most, *(rate.more_bytes for rate in rates))
        return max(max(rate.before_bytes, least) + rate.more_bytes for rate in rates)


def _more(before: int, peak: int, batches: float, grows: float) -> float:
    """What is added to the memory by that many batches, of which a few took `peak`."""
    grows = 0.0 if profiling.on_gpu() else grows * (1 - 1 / max(1.0, batches))
    return (peak - before) * (1 + grows)


def estimate_costs(recipe: Recipe, study: Study, base: Path) -> list[CostEstimate] | None:
    """Estimates for every variant that asks a language model; None where the model is too large to
    try in the memory here."""
    asked = {
        name: variant for name, variant in recipe.variants.items() if variant.uses_language_model
    }
    if not asked:
        return []
    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    free = profiling.available_memory()
    full = any(variant.method == "full" for variant in asked.values())
    weights = loading.count_parameters(folder) * (
        4 if full else loading.compute_dtype(recipe.model.dtype).itemsize
    )
    if free is not None and weights > _FITS * free:
        return None
    found, model, process = [], None, _Process()
    # Passages that are yet to be found are stood in for.
    with_passages = (
        with_dummy_passages(recipe, study, base)
        if any(map(uses_passages, asked.values()))
        else study
    )
    for name, variant in asked.items():
        with spinner(f"{name}: trying a few batches"):
            searches = uses_passages(variant)
            seen = (
                with_passages
                if searches
                else PassageProvider(recipe, Path(), Path()).study_for(study, variant)[0]
            )
            context = VariantContext(recipe, seen, Path(), windowed=not searches)
            if variant.kind == "tuned":
                model = None
                found.append(_tuned(context, variant, name, process))
            else:
                model = model or context.base_model()
                found.append(_asked(context, variant, name, model, process))
    return found


def _asked(
    context: VariantContext, variant: Variant, name: str, model: Any, process: _Process
) -> CostEstimate:
    study = context.study
    if variant.kind == "prompted":
        rows = (study.validation or study.train)[: variant.validation_rows]
        tried = candidates(context, variant).values()
        encoder = max(tried, key=lambda one: _tokens(one, rows))  # any may be kept
        rate = _scoring(context, encoder, model)
        return _plan(
            name,
            context,
            encoder,
            rate,
            rate.seconds * sum(_tokens(one, rows) for one in tried),
            process.peak(rate),
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
    rate = _scoring(context, encoder, model)
    return _plan(name, context, encoder, rate, 0.0, process.peak(rate))


def _tuned(context: VariantContext, variant: Variant, name: str, process: _Process) -> CostEstimate:
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    encoder = context.encoder(context.rendering(variant.prompt))
    model = adapters.make_trainable(
        base_to_train(context, variant, encoder), variant, {**recipe.lora, **variant.lora}
    )
    if variant.adapter:  # what another variant has learned is used, not learned again
        rate = _scoring(context, encoder, model, head)
        return _plan(name, context, encoder, rate, 0.0, process.peak(rate))
    options = {**recipe.training, **variant.training}
    batch, epochs = (
        int(options.get("per_device_train_batch_size", 16)),
        float(options.get("num_train_epochs", 2)),
    )
    window = batch * int(options.get("gradient_accumulation_steps", 1))
    if int(options.get("max_steps", -1)) > 0:
        epochs = int(options["max_steps"]) * window / len(study.train)
    rows = training_rows(context, encoder, study.train, head)
    step = _learning(context, variant, encoder, model, rows, batch, epochs, options)
    scoring = _scoring(context, encoder, model.eval(), head)
    tokens = sum(len(row) for row in rows) + len(encoder.prefix) * math.ceil(len(rows) / batch)
    computed = tokens * epochs + _EVALUATIONS * _FORWARD * _tokens(encoder, study.validation)
    return _plan(
        name, context, encoder, scoring, step.seconds * computed, process.peak(step, scoring)
    )


def _plan(
    name: str,
    context: VariantContext,
    encoder: PromptEncoder,
    rate: _Rate,
    train: float,
    memory: float,
) -> CostEstimate:
    test, validation = (
        rate.seconds * _tokens(encoder, rows)
        for rows in (context.study.test, context.study.validation)
    )
    return CostEstimate(name, train, test, train + test + validation, memory)


def _scoring(
    context: VariantContext, encoder: PromptEncoder, model: Any, head: bool = False
) -> _Rate:
    """Predict the longest rows, by which memory peaks, then twice some from all over the test rows,
    of which the faster counts."""
    rows = context.study.test
    lengths = [len(encoder.encode(e.inputs).token_ids) for e in rows]
    settings = (
        context.recipe.scoring
        if context.recipe.task == "classification"
        else context.recipe.answering
    )
    batches = batch_by_token_budget(lengths, settings.batch_tokens)
    sample = [rows[i] for i in _spread(lengths, settings.batch_tokens)]
    predict = context.task_adapter.predict
    with profiling.measure_cost() as most:
        predict(model, encoder, [rows[i] for i in batches[0]], head, None)
    with profiling.measure_cost() as timed:
        predict(model, encoder, sample, head, None)
    with profiling.measure_cost() as again:
        predict(model, encoder, sample, head, None)
    # What the first try leaves (kernels, weights that are laid out) is there once, whatever comes.
    before, peak = timed.memory_before_bytes, max(most.peak_memory_bytes, timed.peak_memory_bytes)
    rate = min(timed.seconds, again.seconds) / _tokens(encoder, sample)
    return _Rate(rate, before, _more(before, peak, len(batches), _GROWS_ASKED))


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.seconds.append(-time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds[-1] += time.perf_counter()


def _learning(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: Any,
    rows: Sequence[TrainingRow],
    batch: int,
    epochs: float,
    options: dict[str, Any],
) -> _Rate:
    """A few steps of the real trainer: with the longest rows first, then with batches from all over
    the order, whose lower median counts for the time."""
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
    steps = min(4, max(2, _TIMED * len(rows) // (batch * sum(lengths))))
    usual = [order[len(order) * part // (steps + 1)] for part in range(1, steps + 1)]
    batches = [longest, *usual]
    tried = {
        **options,
        "max_steps": len(batches),
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "train_sampling_strategy": "sequential",
        "gradient_accumulation_steps": 1,
        "report_to": "none",
    }
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            tried,
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
        # Short batches are filled up, so that every step has its own.
        filled = [
            rows[i]
            for numbers in batches
            for i in itertools.islice(itertools.cycle(numbers), batch)
        ]
        with profiling.measure_cost() as most:
            train(
                TuningModule(model),
                filled,
                [],
                encoder.prefix,
                arguments,
                int8=context.recipe.model.int8_training,
                callbacks=[clock],
                description=None,
            )
    tokens = [
        len(encoder.prefix) + sum(map(len, filled[at : at + batch]))
        for at in range(batch, len(filled), batch)
    ]
    before, rates = (
        most.memory_before_bytes,
        [one / n for one, n in zip(clock.seconds[1:], tokens, strict=True)],
    )
    return _Rate(
        statistics.median_low(rates),
        before,
        _more(before, most.peak_memory_bytes, len(order) * epochs, _GROWS_LEARNING),
    )


def _tokens(encoder: PromptEncoder, rows: Sequence[Example]) -> int:
    """What is computed for these rows: their own tokens, and the shared beginning once."""
    return len(encoder.prefix) + sum(len(encoder.encode(e.inputs).token_ids) for e in rows)


def _spread(lengths: Sequence[int], budget: int) -> list[int]:
    """Numbers of rows with about `budget` tokens, in four runs of neighbours, which may share a
    text."""
    count = max(1, int(budget / 4 / (sum(lengths) / len(lengths))))
    starts = {len(lengths) * quarter // 4 for quarter in range(4)}
    return sorted({i for start in starts for i in range(start, min(len(lengths), start + count))})
