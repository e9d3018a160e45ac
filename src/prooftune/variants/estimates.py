"""Estimated time and memory of every variant on this machine.

A few of its batches are computed, the longest among them, and extrapolated by token count. No
result is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from prooftune.models import adapters, loading, weight_sizes
from prooftune.recipe import Recipe, Variant
from prooftune.tasks.prompt_encoding import Shot
from prooftune.training.memory import OPTIMIZER_BYTES
from prooftune.training.quality import quality_rows
from prooftune.types import Study
from prooftune.utils import profiling
from prooftune.utils.progress import spinner
from prooftune.variants.context import VariantContext
from prooftune.variants.document_files import uses_passages
from prooftune.variants.dummy_passages import with_dummy_passages
from prooftune.variants.few_shot import sample_few_shot
from prooftune.variants.measured_rates import (
    TokenCounter,
    evenly_spaced,
    measure_scoring,
    token_counter,
)
from prooftune.variants.measured_training import measure_training
from prooftune.variants.memory_model import MeasuredRate, MemoryModel
from prooftune.variants.objectives import build_objective, needs_reference
from prooftune.variants.passages import PassageProvider
from prooftune.variants.pretraining_estimates import pretraining_seconds
from prooftune.variants.prompting import candidates
from prooftune.variants.time_budget import TimeBudget
from prooftune.variants.trainable import base_to_train, make_trainable

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
        is_extrapolated: the time budget had no room for whole batches.
    """

    name: str
    train_seconds: float
    score_seconds: float
    seconds: float
    memory_bytes: float
    trainings: int = 1
    disk_bytes: float = 0.0
    is_extrapolated: bool = False


_CHECKPOINTS = 3
"""Checkpoints that a training has on disk at most: the two last and the best."""
_OPTIMIZER_STATE = 2
"""AdamW's moments, in 4 bytes for each weight that is trained."""

_MAX_TRAINING_ROWS = 10_000
"""Training rows that are tokenised; the others are taken to be as long on average."""

_EVALUATIONS_PER_TRAINING, _FORWARD_SHARE = 4, 0.5
"""Evaluations of the validation loss per training, and the time per token of a forward pass as a
share of a training step's."""


def estimate_costs(
    recipe: Recipe, study: Study, base: Path, budget: TimeBudget | None = None
) -> list[CostEstimate] | None:
    """Estimates for every variant with a language model or an encoder.

    Args:
        recipe, study: the study to estimate.
        base: folder of the recipe's relative paths.
        budget: how long this may take; every variant at least computes a short row. Default: no
            limit.

    Returns:
        None if a model does not fit into the free memory.
    """
    budget = budget or TimeBudget()
    variants = {
        name: variant for name, variant in recipe.variants.items() if variant.uses_language_model
    }
    encoder_names = [name for name, v in recipe.variants.items() if v.kind == "encoder"]
    share = len(encoder_names) / max(1, len(encoder_names) + len(variants))
    encoders = _estimate_encoders(recipe, study, encoder_names, budget.share(share))
    if not variants:
        return encoders
    # A model that does not fit would make the machine swap, or end the process.
    free = profiling.available_memory()
    weights = max(
        _weight_bytes(recipe.for_variant(name), recipe.resolved(v)) for name, v in variants.items()
    )
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
    for number, (name, variant) in enumerate(variants.items()):
        # A share of what is left, so that the later variants get what the earlier ones did not use.
        own = budget.share(1 / (len(variants) - number))
        with spinner(f"{name}: measuring a few batches"):
            with_retrieval = uses_passages(variant)
            variant_study = (
                with_passages
                if with_retrieval
                else PassageProvider(recipe, Path(), Path()).study_for(study, variant)[0]
            )
            view = recipe.for_variant(name)
            context = VariantContext(
                view, variant_study, Path(), windowed=not with_retrieval, base=base
            )
            if variant.kind == "tuned":
                # Its weights to continue from are not trained yet: new ones take the same time.
                variant = recipe.resolved(variant).model_copy(update={"start_from": None})
                model = None
                one = _estimate_tuned(context, variant, name, base, memory, own)
                estimates.append(_all_trainings(one, recipe.trainings(name)))
            else:
                if loaded is None or (loaded.model, loaded.quantization) != (
                    view.model,
                    view.quantization,
                ):
                    model = None  # freed before the next one is loaded
                # Variants that prompt the same base model share it.
                model = model or context.base_model()
                loaded = view
                one = _estimate_prompted(context, variant, name, model, memory, own)
                # A prompt for tuned weights is scored with those of every training.
                estimates.append(_all_trainings(one, recipe.trainings(name)))
    return [*encoders, *estimates]


def _estimate_encoders(
    recipe: Recipe, study: Study, names: list[str], budget: TimeBudget
) -> list[CostEstimate]:
    estimates = []
    for number, name in enumerate(names):
        from prooftune.variants.encoder_estimates import estimate_encoder

        with spinner(f"{name}: measuring a few batches"):
            context = VariantContext(recipe.for_variant(name), study, Path())
            own = budget.share(1 / (len(names) - number))
            train, score, seconds, memory, weights, rough = estimate_encoder(
                context, recipe.variants[name], name, own
            )
            # The trained weights once, and in each checkpoint with the optimiser's state.
            disk = weights * (1 + _CHECKPOINTS * (1 + _OPTIMIZER_STATE))
            one = CostEstimate(
                name, train, score, seconds, memory, disk_bytes=disk, is_extrapolated=rough
            )
            estimates.append(_all_trainings(one, recipe.trainings(name)))
    return estimates


def _weight_bytes(recipe: Recipe, variant: Variant) -> int:
    """Memory of a variant's weights, and of the optimiser's arrays if all of them are trained."""
    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    if variant.method == "full":
        # float32 weights, with gradients and AdamW's arrays for all of them.
        return weight_sizes.weight_bytes(folder, 4 + OPTIMIZER_BYTES)
    itemsize = loading.compute_dtype(recipe.model.dtype).itemsize
    return weight_sizes.weight_bytes(folder, itemsize, recipe.quantization)


def _estimate_prompted(
    context: VariantContext,
    variant: Variant,
    name: str,
    model: nn.Module,
    memory: MemoryModel,
    budget: TimeBudget,
) -> CostEstimate:
    study = context.study
    if variant.kind == "prompted":
        rows = (study.validation or study.train)[: variant.validation_rows]
        counters = [
            token_counter(context, encoder, False)
            for encoder in candidates(context, variant).values()
        ]
        tokens = [counter.total(rows) for counter in counters]
        longest = counters[tokens.index(max(tokens))]  # any may win
        rate = measure_scoring(context, longest.encoder, model, False, budget)
        search = rate.seconds * sum(tokens)
        return _cost_estimate(name, context, longest, rate, search, memory.peak(rate))
    shots: tuple[Shot, ...] = ()
    if variant.kind == "few-shot":
        shots = sample_few_shot(context, variant.shots)
    encoder = context.encoder(context.rendering(variant.prompt, shots=shots))
    rate = measure_scoring(context, encoder, model, False, budget)
    counter = token_counter(context, encoder, False)
    return _cost_estimate(name, context, counter, rate, 0.0, memory.peak(rate))


def _all_trainings(one: CostEstimate, trainings: int) -> CostEstimate:
    """The cost of several trainings, given that of one. Checkpoints are only of one at a time."""
    # The reverse of the sum: the trained weights alone are written for every training.
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
    context: VariantContext,
    variant: Variant,
    name: str,
    folder: Path,
    memory: MemoryModel,
    budget: TimeBudget,
) -> CostEstimate:
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    encoder = context.encoder(context.rendering(variant.prompt))
    base = base_to_train(context, variant, recipe.training_seed(name))
    model = make_trainable(context, variant, base)
    counter = token_counter(context, encoder, head)
    if variant.adapter:  # the weights of another variant: no training
        rate = measure_scoring(context, encoder, model, head, budget)
        return _cost_estimate(name, context, counter, rate, 0.0, memory.peak(rate))
    options = {**recipe.training, **variant.training}
    batch, epochs = (
        int(options.get("per_device_train_batch_size", 16)),
        float(options.get("num_train_epochs", variant.default_epochs)),
    )
    window = batch * int(options.get("gradient_accumulation_steps", 1))
    if int(options.get("max_steps", -1)) > 0:
        # max_steps overrides the number of epochs, as in transformers.
        epochs = int(options["max_steps"]) * window / len(study.train)
    tokenised = evenly_spaced(study.train, _MAX_TRAINING_ROWS)
    objective = build_objective(context, variant, encoder, model, with_reference=False)
    rows = objective.rows(tokenised, "train")
    count = len(rows) * len(study.train) / len(tokenised)  # windows of a context are rows too
    tokens = sum(len(row) for row in rows) * count / len(rows)
    steps = math.ceil(count / batch)
    step = measure_training(
        context,
        variant,
        encoder,
        model,
        rows,
        batch,
        steps * epochs,
        options,
        budget.share(0.5),
    )
    scoring = measure_scoring(context, encoder, model.eval(), head, budget)
    # The loss is computed without a tree of labels.
    loss_tokens = TokenCounter(encoder, 0).total(study.validation)
    computed = (tokens + len(encoder.prefix) * steps) * epochs + (
        _EVALUATIONS_PER_TRAINING * _FORWARD_SHARE * loss_tokens
    )
    measured = quality_rows(recipe, study.validation, head)
    seconds = step.seconds * computed + (
        _EVALUATIONS_PER_TRAINING * scoring.seconds * counter.total(measured)
    )
    if needs_reference(recipe, variant):
        seconds += scoring.seconds * counter.total(study.train)
    seconds += pretraining_seconds(context, variant, folder, model, step.seconds)
    cost = _cost_estimate(name, context, counter, scoring, seconds, memory.peak(step, scoring))
    cost = replace(cost, is_extrapolated=step.is_extrapolated or scoring.is_extrapolated)
    weights = 4 * adapters.trainable_counts(model)[0]
    return replace(cost, disk_bytes=weights * (1 + _CHECKPOINTS * (1 + _OPTIMIZER_STATE)))


def _cost_estimate(
    name: str,
    context: VariantContext,
    counter: TokenCounter,
    rate: MeasuredRate,
    train: float,
    memory: float,
) -> CostEstimate:
    test, validation = (
        rate.seconds * counter.total(rows)
        for rows in (context.study.test, context.study.validation)
    )
    return CostEstimate(
        name,
        train,
        test,
        train + test + validation,
        memory,
        is_extrapolated=rate.is_extrapolated,
    )
