"""Tuned variants: train, save, reload from disk, verify that the reloaded model is the trained one,
and score it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from prooftune.engine.compatibility import check_output_head
from prooftune.engine.model_parts import get_output_head
from prooftune.errors import Failure, UsageError
from prooftune.models import adapters, loading, weight_changes
from prooftune.models.stored_tensors import load_output_head
from prooftune.recipe import Variant
from prooftune.recipe.variants import ClassWeights
from prooftune.run_folder import training_folder
from prooftune.tasks.classification import class_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.objective import TrainingRow, TuningModule, head_rows, instruction_rows
from prooftune.types import Example
from prooftune.utils import distributed
from prooftune.utils.files import atomic_path, read_json, sha256, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import (
    Forgetting,
    LogEntry,
    TrainingRecord,
    TrainingSummary,
    WeightChanges,
)
from prooftune.variants.class_weights import describe_weights, label_weights, row_weights
from prooftune.variants.context import VariantContext, VariantOutput, training_title
from prooftune.variants.forgetting import general_text, perplexity
from prooftune.variants.model_handle import ModelHandle, release_cached_model
from prooftune.variants.prompting import run_prompted, score_splits
from prooftune.variants.verification import PROBE_ROWS, probe_scores, verify_reload

CHECKPOINTS_FOLDER = "checkpoints"
TRAINED_FOLDER = "trained"
REPORTED_ARGUMENTS = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "bf16",
    "fp16",
    "seed",
)
"""Training arguments that the report shows, whether or not the recipe sets them."""


def run_tuned(context: VariantContext, variant: Variant, name: str, base: Path) -> VariantOutput:
    """Train the variant (or resume its training), then evaluate the weights read back from disk.

    Args:
        context: the study; checkpoints, trained weights and ``training.json`` go into its folder.
        variant: objective, method, and the options that override the recipe's.
        name: the variant's name, for progress and messages.
        base: folder of the recipe, for the text on which forgetting is measured.

    Raises:
        UsageError: the recipe's training options or its text cannot be used.
        Failure: training diverged, or the reloaded model does not predict as the trained one did.
    """
    head, title = variant.objective == "head", training_title(name, context.training)
    # Before training, so that a wrong file name fails early.
    text = general_text(context.recipe.forgetting, base)
    rendering = context.rendering(variant.prompt)
    encoder = context.encoder(rendering)
    write_json(context.folder / "rendering.json", rendering.to_json())
    if variant.adapter:
        handle, record, folder = _load_adapter(context, variant.adapter, name)
        description = f"the weights trained as {variant.adapter}"
        output = score_splits(context, handle, encoder, title, description)
        return _with_adapter_details(output, record, folder)
    folder = context.folder
    record_file = folder / "training.json"
    if not ((folder / TRAINED_FOLDER).is_dir() and record_file.is_file()):
        if record_file.is_file():  # the trained weights were deleted, to train again from scratch
            record_file.unlink()
            shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
        distributed.run_on_all_ranks(_train, context, variant, name, encoder, record_file)
    record = read_json(record_file)
    handle = _trained_handle(context, folder, context.study.labels if head else None)
    verify_reload(
        handle.model,
        encoder,
        context,
        folder / TRAINED_FOLDER,
        head,
        record["probe"],
        exact=variant.method != "full",
    )
    description = describe_training(variant, record, context.recipe.class_weights)
    output = score_splits(context, handle, encoder, title, description, head=head)
    details = output.details
    peaks = record["cost"]["peak_memory_bytes"], details["cost"]["peak_memory_bytes"]
    details["cost"].update(record["cost"])
    details["cost"]["peak_memory_bytes"] = max(peaks)
    details["training"] = record["training"]
    details["objective"], details["method"] = variant.objective, variant.method
    details["weights_sha256"] = weights_digests(folder)
    details["changes"], details["forgetting"] = _before_and_after(context, handle, variant, *text)
    return output


def run_prompted_on_tuned(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Choose a prompt on validation rows for the weights of another variant, and predict with both.

    Raises:
        UsageError: the other variant has not run yet.
    """
    source = str(variant.adapter)
    handle, record, folder = _load_adapter(context, source, name)
    output = run_prompted(context, variant, handle, training_title(name, context.training))
    output.details["description"] = (
        f"the weights trained as {source}, with {output.details['description']}"
    )
    return _with_adapter_details(output, record, folder)


def _load_adapter(
    context: VariantContext, source: str, name: str
) -> tuple[ModelHandle, TrainingRecord, Path]:
    """The weights of another variant, which were verified when it was trained.

    Returns:
        The model, the record of its training, and the other variant's folder.
    """
    folder = training_folder(context.variants_folder, source, context.training)
    record_file = folder / "training.json"
    if not ((folder / TRAINED_FOLDER).is_dir() and record_file.is_file()):
        raise UsageError(f"{name}: adapter: {source} must come before it in variants")
    return _trained_handle(context, folder, None), read_json(record_file), folder


def _trained_handle(context: VariantContext, folder: Path, labels: list[str] | None) -> ModelHandle:
    """The trained model in a variant's folder; `labels` are those of its classification head."""
    return ModelHandle(
        partial(
            adapters.load_tuned,
            context.model_folder,
            folder / TRAINED_FOLDER,
            context.recipe.model,
            quantization=context.recipe.quantization,
            labels=labels,
        )
    )


def _with_adapter_details(
    output: VariantOutput, record: TrainingRecord, folder: Path
) -> VariantOutput:
    output.details["objective"], output.details["method"] = "instruction", record["method"]
    output.details["weights_sha256"] = weights_digests(folder)
    return output


def weights_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the trained weight files of a variant."""
    return {p.name: sha256(p) for p in sorted((folder / TRAINED_FOLDER).glob("*.safetensors"))}


def _train(
    context: VariantContext, variant: Variant, name: str, encoder: PromptEncoder, record_file: Path
) -> None:
    """Train, check that the predictions changed, and save. Runs on every rank; rank 0 saves."""
    from prooftune.training.arguments import (
        chosen_checkpointing,
        default_learning_rate,
        training_arguments,
    )
    from prooftune.training.checkpoints import elapsed_seconds, last_complete_checkpoint
    from prooftune.training.quality import validation_quality
    from prooftune.training.trainer import train

    release_cached_model()
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    rows, validation = (
        training_rows(context, encoder, examples, head)
        for examples in (study.train, context.training_validation)
    )
    seed = recipe.training_seed(name, context.training)
    base = base_to_train(context, variant, seed)
    check_output_head(base)
    probe = study.test[:PROBE_ROWS]
    before = probe_scores(base, encoder, probe, head)
    model = adapters.make_trainable(base, variant, {**recipe.lora, **variant.lora})
    options = training_options(context, variant, name, seed)
    checkpoints = context.folder / CHECKPOINTS_FOLDER
    arguments = training_arguments(
        options,
        checkpoints,
        rows=len(rows),
        validation=len(validation),
        seed=recipe.seed,
        dtype=loading.compute_dtype(recipe.model.dtype),
        patience=recipe.early_stopping,
        learning_rate=default_learning_rate(adapters.trainable_counts(model)[1], variant.method),
    )
    checkpoint = last_complete_checkpoint(checkpoints)
    resumed, seconds_before = checkpoint is not None, elapsed_seconds(checkpoint)
    trainable, total = adapters.trainable_counts(model)
    module = TuningModule(model)
    with measure_cost() as cost:
        history = train(
            module,
            rows,
            validation,
            encoder.prefix,
            arguments,
            patience=recipe.early_stopping,
            int8=recipe.model.int8_training,
            description=f"{training_title(name, context.training)}: training",
            quality=validation_quality(recipe, encoder, context.training_validation, head),
            peft_checkpoints="save_total_limit" in options,
            logs=context.variants_folder.parent / "logs" / log_folder(name, context.training),
            project=options.get("project", recipe.name),
            checkpointing=chosen_checkpointing(options),
        )
    if module.sharded:  # scoring and saving need the whole model on one rank
        trained = module.trainable_state()
        # Freed before the whole model is loaded again.
        del base, model, module
        module = TuningModule(
            adapters.make_trainable(
                base_to_train(context, variant, seed), variant, {**recipe.lora, **variant.lora}
            )
        )
        module.load_trainable(trained)
    model = module.model.eval()
    # Scored in the dtype in which it will be saved and loaded.
    adapters.remove_master_weights(model)
    after = probe_scores(model, encoder, probe, head)
    check_trained(name, before, after)
    if distributed.rank():
        return
    with atomic_path(context.folder / TRAINED_FOLDER) as temporary:
        adapters.save_tuned(
            model, temporary, variant.method, loading.compute_dtype(recipe.model.dtype)
        )
    record: TrainingRecord = {
        "method": variant.method,
        "training": training_summary(history, arguments, (trainable, total), len(rows), resumed),
        "probe": {"before": before.tolist(), "after": after.tolist()},
        "cost": {
            "train_seconds": seconds_before + cost.seconds,
            "peak_memory_bytes": cost.peak_memory_bytes,
        },
    }
    tokens = sum(len(encoder.prefix) + len(row) for row in rows)
    record["cost"]["train_tokens"] = round(tokens * record["training"]["epochs"])
    write_json(record_file, record)
    if "save_total_limit" not in options:  # otherwise they were asked for
        shutil.rmtree(checkpoints, ignore_errors=True)


def check_trained(name: str, before: Tensor, after: Tensor) -> None:
    """Check that training changed the probe rows' scores [rows, labels], and kept them finite.

    Raises:
        Failure: it did not.
    """
    if not after.isfinite().all():
        raise Failure(
            f"{name}: after the last training step the model's outputs are not finite. Lower "
            "training.learning_rate, or use bf16 instead of fp16."
        )
    if (after - before).abs().max().item() < 1e-4:
        raise Failure(
            f"{name}: training did not change the model's outputs. Check "
            "training.learning_rate, training.max_steps and lora.target_modules."
        )


def training_summary(
    history: list[LogEntry],
    arguments: TrainingArguments,
    counts: tuple[int, int],
    rows: int,
    resumed: bool,
) -> TrainingSummary:
    """The record of a finished training.

    Args:
        history: the Trainer's log.
        arguments: of the Trainer.
        counts: numbers of trainable and of all parameters.
        rows: number of training rows.
        resumed: whether it was resumed from a checkpoint.
    """
    reported = {name: getattr(arguments, name) for name in REPORTED_ARGUMENTS}
    return {
        "log_history": history,
        "trainable_parameters": counts[0],
        "total_parameters": counts[1],
        "rows": rows,
        "epochs": next((log["epoch"] for log in reversed(history) if "epoch" in log), 0.0),
        "resumed": resumed,
        "arguments": {**reported, "processes": distributed.world_size()},
    }


def training_options(
    context: VariantContext, variant: Variant, name: str, seed: int
) -> dict[str, Any]:
    """`TrainingArguments` fields of one training."""
    recipe = context.recipe
    run = f"{recipe.name}/{log_folder(name, context.training)}"
    options = {"run_name": run, **recipe.training, **variant.training, "seed": seed}
    if options.get("data_seed") is not None:
        # Trainings differ in the order of their rows, too.
        options["data_seed"] = int(options["data_seed"]) + context.training
    return options


def log_folder(name: str, training: int) -> str:
    """Folder of the trackers' logs of one training."""
    # No variant can have this name, which has a character that names cannot have.
    return f"{name}@{training + 1}" if training else name


def base_to_train(context: VariantContext, variant: Variant, seed: int) -> Any:
    """Load the model to train. The seed sets the initial head and adapter weights."""
    torch.manual_seed(seed)
    return loading.load_model(
        context.model_folder,
        context.recipe.model,
        quantization=context.recipe.quantization,
        labels=context.study.labels if variant.objective == "head" else None,
        full_precision=variant.method == "full",
    )


def training_rows(
    context: VariantContext, encoder: PromptEncoder, examples: Sequence[Example], head: bool
) -> Sequence[TrainingRow]:
    """Token ids, targets and weights of the examples, for the variant's objective."""
    weights = row_weights(
        label_weights(context.recipe.class_weights, context.study.train), examples
    )
    if head:
        return head_rows(class_pairs(examples, encoder), weights)
    return instruction_rows(
        context.task_adapter.training_pairs(examples, encoder), encoder.stop_token_id, weights
    )


def _before_and_after(
    context: VariantContext, handle: ModelHandle, variant: Variant, text: str, text_name: str
) -> tuple[WeightChanges, Forgetting]:
    """Weight change by layer, and perplexity on general text, against the untuned model.

    Only one whole model is in memory at a time: an adapter is switched off to get the untuned
    model; after full fine-tuning the tuned model is released before the untuned one is loaded.
    """
    model, folder = handle.model, context.model_folder
    if variant.objective == "head":  # which has replaced the output head over the vocabulary
        output_head = load_output_head(folder, loading.compute_dtype(context.recipe.model.dtype))
    else:
        output_head = get_output_head(model)
    after, count = perplexity(model, output_head, context.tokenizer, text)
    if variant.method == "full":
        changes = weight_changes.full_weight_changes(folder, model)
        del model, output_head
        handle.release()
        untuned = context.base_model()
        before, _ = perplexity(untuned, get_output_head(untuned), context.tokenizer, text)
    else:
        changes = weight_changes.adapter_weight_changes(model)
        with adapters.use_adapter(model, None):
            before, _ = perplexity(model, output_head, context.tokenizer, text)
    return changes, {
        "perplexity_before": before,
        "perplexity_after": after,
        "tokens": count,
        "text": text_name,
    }


def describe_training(
    variant: Variant, record: TrainingRecord, class_weights: ClassWeights | None = None
) -> str:
    """Method, rows and hyperparameters of a training in one line."""
    method = {"lora": "LoRA", "dora": "DoRA", "rslora": "rsLoRA", "full": "all weights"}
    objective = "a classification head" if variant.has_head else "the instruction"
    training = record["training"]
    arguments, epochs = training["arguments"], training["epochs"]
    share = training["trainable_parameters"] / training["total_parameters"]
    batch_size = (
        arguments["per_device_train_batch_size"]
        * arguments["gradient_accumulation_steps"]
        * arguments["processes"]
    )
    return (
        f"{method[variant.method]} tuned with {objective} on {training['rows']:,} rows, "
        f"{share:.2%} of the weights trained, learning rate {arguments['learning_rate']:.2g}, "
        f"{epochs:.3g} epoch{'s' if epochs != 1 else ''}, batches of {batch_size}"
        f"{describe_weights(class_weights)}"
    )
