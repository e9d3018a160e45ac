"""Encoders: fine-tune a bidirectional model with a classification head, save, reload, predict."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.models import adapters, embeddings, encoder, loading
from prooftune.models.encoder import EncoderTokenizer
from prooftune.recipe import Variant
from prooftune.training.encoder_objective import EncoderModule, encoder_collator, encoder_rows
from prooftune.training.quality import (
    SCORED_ROWS,
    Quality,
    label_quality,
    label_set_quality,
    sample_rows,
)
from prooftune.types import Example, Prediction
from prooftune.utils import distributed
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import TrainingRecord
from prooftune.variants.class_weights import label_weights, row_weights
from prooftune.variants.context import VariantContext, VariantOutput, training_title
from prooftune.variants.latency import measure_latency
from prooftune.variants.model_handle import release_cached_model
from prooftune.variants.training_record import (
    CHECKPOINTS_FOLDER,
    TRAINED_FOLDER,
    check_trained,
    describe_training,
    training_options,
    training_summary,
    weights_digests,
)
from prooftune.variants.training_setup import TrainingSetup, make_setup
from prooftune.variants.verification import PROBE_ROWS, compare_probe

SMALL_PARAMETERS = 60_000_000
"""Encoders below this number of parameters count as small for the learning rate."""
EPOCHS = 5
PEFT_HEADS = ("classifier", "score")
"""Names of heads that peft saves with an adapter by itself."""


def run_encoder(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Train the encoder (or resume its training), then evaluate the weights read back from disk.

    An adapter is merged after training, so that a plain model is evaluated and shipped; it
    also stays in the folder ``adapter``.

    Args:
        context: the study; checkpoints, trained weights and ``training.json`` go into its folder.
        variant: method and training options.
        name: the variant's name, for progress and messages.

    Raises:
        UsageError: the model or the training options cannot be used.
        Failure: training diverged, or the reloaded model does not predict as the trained one did.
    """
    recipe, study = context.recipe, context.study
    title = training_title(name, context.training)
    record_file, trained = context.folder / "training.json", context.folder / TRAINED_FOLDER
    base = base_folder(context)
    tokenizer = encoder.load_tokenizer(
        base, recipe.prompt.max_length, recipe.model.trust_remote_code
    )
    if not (trained.is_dir() and record_file.is_file()):
        # After a kill, an old record next to new weights would be taken for theirs.
        record_file.unlink(missing_ok=True)
        distributed.run_on_all_ranks(_train, context, variant, name, tokenizer, record_file)
    record: TrainingRecord = read_json(record_file)
    several = recipe.task == "multilabel"
    model = encoder.load_encoder(trained, study.labels, recipe.model, several=several)
    probe = _probe_scores(context, model, tokenizer)
    # Merging an adapter rounds once more.
    compare_probe(probe, trained, record["probe"], exact=variant.method == "full")

    def predict(examples: Sequence[Example], split: str | None) -> list[Prediction]:
        return encoder.predict_labels(
            model,
            tokenizer,
            examples,
            study.labels,
            dtype=loading.compute_dtype(recipe.model.dtype),
            batch_tokens=recipe.scoring.fixed_batch_tokens,
            description=split and f"{title}: {split} rows",
        )

    with measure_cost() as scoring:
        test = predict(study.test, "test")
    cost = record["cost"]
    return VariantOutput(
        test,
        predict(study.validation, "validation"),
        {
            "description": f"{recipe.model.name}, "
            f"{describe_training(variant, record, recipe.class_weights)}",
            "model": recipe.model.name,
            "cost": {
                **cost,
                "score_seconds": scoring.seconds,
                "score_tokens": sum(p.prompt_tokens for p in test),
                "peak_memory_bytes": max(cost["peak_memory_bytes"], scoring.peak_memory_bytes),
                **measure_latency(context, lambda rows: predict(rows, None)),
            },
            "training": record["training"],
            "objective": "head",
            "method": variant.method,
            "weights_sha256": weights_digests(context.folder),
        },
    )


def base_folder(context: VariantContext) -> Path:
    """The folder of the pretrained encoder."""
    model = context.recipe.model
    return embeddings.resolve(model.name, model.revision)


def encoder_to_train(context: VariantContext, variant: Variant, seed: int) -> nn.Module:
    """Load the encoder with its trainable parameters. The seed sets its new layers and adapters."""
    torch.manual_seed(seed)
    base: Any = encoder.load_encoder(
        base_folder(context),
        context.study.labels,
        context.recipe.model,
        several=bool(context.label_sets),
    )
    if variant.method == "full":
        return adapters.make_trainable(base, variant, {})
    # Layers that the pretrained files lack are drawn at random, so the adapter must bring them.
    new = [name for name in encoder.new_modules(base) if name.partition(".")[0] not in PEFT_HEADS]
    saved = {*new, *(variant.lora.get("modules_to_save") or [])}
    return adapters.make_trainable(
        base, variant, {**variant.lora, "modules_to_save": sorted(saved) or None}
    )


def default_options(variant: Variant, parameters: int) -> dict[str, Any]:
    """Defaults of `TrainingArguments` for encoders (Devlin et al. 2019, appendix A.3; more epochs
    because studies have few rows, Zhang et al. 2021, arXiv 2006.05987).

    Args:
        variant: its method.
        parameters: number of the model's parameters.
    """
    small = parameters < SMALL_PARAMETERS
    rates = (2e-4, 5e-5) if variant.method == "full" else (2e-3, 5e-4)
    return {
        "learning_rate": rates[0 if small else 1],
        "num_train_epochs": EPOCHS,
        "weight_decay": 0.01,
        # A share of all steps, which transformers takes for values below 1.
        "warmup_steps": 0.1,
    }


def _train(
    context: VariantContext,
    variant: Variant,
    name: str,
    tokenizer: EncoderTokenizer,
    record_file: Path,
) -> None:
    """Train, check that the predictions changed, and save. Runs on every rank; rank 0 saves."""
    from prooftune.training.checkpoints import elapsed_seconds, last_complete_checkpoint

    release_cached_model()
    recipe = context.recipe
    seed = recipe.training_seed(name, context.training)
    model = encoder_to_train(context, variant, seed)
    before = _probe_scores(context, model, tokenizer)
    counts = adapters.trainable_counts(model)
    setup = encoder_setup(context, variant, name, tokenizer, model)
    rows, arguments = setup.rows, setup.arguments
    checkpoints = context.folder / CHECKPOINTS_FOLDER
    checkpoint = last_complete_checkpoint(checkpoints)
    resumed, seconds_before = checkpoint is not None, elapsed_seconds(checkpoint)
    with measure_cost() as cost:
        history = setup.run()
    model = model.eval()
    after = _probe_scores(context, model, tokenizer)
    check_trained(name, before, after)
    if distributed.rank():
        return
    with atomic_path(context.folder / TRAINED_FOLDER) as temporary:
        # Float32, as trained: encoders are small, and rounding would change predictions.
        if variant.method != "full":
            adapters.save_tuned(model, context.folder / "adapter", variant.method, torch.float32)
            peft_model: Any = model
            model = peft_model.merge_and_unload()
        adapters.save_tuned(model, temporary, "full", torch.float32)
        tokenizer.tokenizer.save_pretrained(temporary)
    record: TrainingRecord = {
        "method": variant.method,
        "training": training_summary(history, arguments, counts, len(rows), resumed),
        "probe": {"before": before.tolist(), "after": after.tolist()},
        "cost": {
            "train_seconds": seconds_before + cost.seconds,
            "peak_memory_bytes": cost.peak_memory_bytes,
        },
    }
    record["cost"]["train_tokens"] = round(sum(map(len, rows)) * record["training"]["epochs"])
    write_json(record_file, record)
    if not setup.keeps_checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)


def encoder_setup(
    context: VariantContext,
    variant: Variant,
    name: str,
    tokenizer: EncoderTokenizer,
    model: nn.Module,
) -> TrainingSetup:
    """The training of an encoder.

    Args:
        context: the study; of its rows only training and validation rows are read.
        variant, name: the variant.
        tokenizer: of the encoder.
        model: from `encoder_to_train`.

    Raises:
        UsageError: the training options cannot be used.
    """
    recipe, study = context.recipe, context.study
    weights = label_weights(recipe.class_weights, study.train)
    classes = context.label_sets or study.labels
    sets = context.label_set_matrix()
    rows, validation = (
        encoder_rows(examples, tokenizer, classes, row_weights(weights, examples))
        for examples in (study.train, context.training_validation)
    )
    seed = recipe.training_seed(name, context.training)
    options = {
        **default_options(variant, adapters.trainable_counts(model)[1]),
        **training_options(context, variant, name, seed),
    }
    return make_setup(
        context,
        name,
        EncoderModule(model, sets),
        rows,
        validation,
        options,
        quality=_validation_quality(context, tokenizer),
        collator=encoder_collator(tokenizer),
    )


def _probe_scores(context: VariantContext, model: nn.Module, tokenizer: EncoderTokenizer) -> Tensor:
    """Log-probabilities [rows, labels] of the first test rows."""
    rows = tokenizer.encode([example.inputs for example in context.study.test[:PROBE_ROWS]])
    return encoder.label_log_probs(
        model,
        tokenizer,
        rows,
        dtype=loading.compute_dtype(context.recipe.model.dtype),
        batch_tokens=context.recipe.scoring.fixed_batch_tokens,
    )


def _validation_quality(context: VariantContext, tokenizer: EncoderTokenizer) -> Quality | None:
    """A function from a model to its metrics on validation rows; None if there are no rows."""
    recipe, labels = context.recipe, context.study.labels
    rows = sample_rows(context.training_validation, SCORED_ROWS, recipe.seed)
    if not rows:
        return None

    def quality(model: nn.Module) -> dict[str, float]:
        predictions = encoder.predict_labels(
            model,
            tokenizer,
            rows,
            labels,
            dtype=loading.compute_dtype(recipe.model.dtype),
            batch_tokens=recipe.scoring.fixed_batch_tokens,
        )
        measure = label_set_quality if recipe.task == "multilabel" else label_quality
        return measure(predictions, rows, labels)

    return quality
