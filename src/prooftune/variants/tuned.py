"""Tuned variants: train, save, reload from disk, verify that the reloaded model is the trained one,
and score it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from torch import nn

from prooftune.engine.compatibility import check_output_head
from prooftune.engine.model_parts import get_output_head
from prooftune.errors import Failure
from prooftune.models import adapters, loading, weight_changes
from prooftune.models.stored_tensors import load_output_head
from prooftune.recipe import Variant
from prooftune.run_folder import training_folder
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.objective import TuningModule
from prooftune.utils import distributed
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import (
    Forgetting,
    TrainingRecord,
    WeightChanges,
)
from prooftune.variants.context import VariantContext, VariantOutput, training_title
from prooftune.variants.forgetting import general_text, perplexity
from prooftune.variants.model_handle import ModelHandle, release_cached_model
from prooftune.variants.objectives import build_objective
from prooftune.variants.pretraining import (
    load_pretrained,
    pretrain_on_all_ranks,
    pretraining_record,
)
from prooftune.variants.prompting import run_prompted, score_splits
from prooftune.variants.trainable import base_to_train, make_trainable
from prooftune.variants.training_record import (
    CHECKPOINTS_FOLDER,
    TRAINED_FOLDER,
    add_pretraining,
    check_trained,
    describe_training,
    training_options,
    training_summary,
    weights_digests,
)
from prooftune.variants.training_setup import TrainingSetup, make_setup
from prooftune.variants.verification import PROBE_ROWS, probe_scores, verify_reload


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
    variant = context.recipe.resolved(variant)
    head, title = variant.objective == "head", training_title(name, context.training)
    # Before training, so that a wrong file name fails early.
    text = general_text(context.recipe.forgetting, base)
    rendering = context.rendering(variant.prompt)
    encoder = context.encoder(rendering)
    write_json(context.folder / "rendering.json", rendering.to_json())
    if variant.adapter:
        handle, record, folder = _load_adapter(context, variant.adapter, name)
        # Trained once, scored with another prompt or with retrieval.
        description = f"the weights trained as {variant.adapter}"
        output = score_splits(context, handle, encoder, title, description)
        return _with_adapter_details(output, record, folder)
    folder = context.folder
    record_file = folder / "training.json"
    if not ((folder / TRAINED_FOLDER).is_dir() and record_file.is_file()):
        if record_file.is_file():  # the trained weights were deleted, to train again from scratch
            record_file.unlink()
            shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
        if variant.pretrain:
            pretrain_on_all_ranks(context, variant, name)
        # Scoring needs one process; only the training is distributed.
        distributed.run_on_all_ranks(_train, context, variant, name, encoder, record_file)
    record = read_json(record_file)
    # Read back from disk: the scored weights are those that ship.
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
    description = describe_training(
        variant,
        record,
        context.recipe.class_weights,
        answers=not context.recipe.has_labels,
    )
    output = score_splits(context, handle, encoder, title, description, head=head)
    details = output.details
    # Read before the update below overwrites it.
    peaks = record["cost"]["peak_memory_bytes"], details["cost"]["peak_memory_bytes"]
    details["cost"].update(record["cost"])
    details["cost"]["peak_memory_bytes"] = max(peaks)
    details["training"] = record["training"]
    if "pretraining" in record:
        details["pretraining"] = record["pretraining"]
        details["without_pretraining"] = context.recipe.variant_without_pretraining(name)
    details["objective"], details["method"] = variant.objective, variant.method
    if variant.start_from is not None:
        details["continues"] = variant.start_from
    details["weights_sha256"] = weights_digests(folder)
    details["changes"], details["forgetting"] = _before_and_after(context, handle, variant, *text)
    return output


def run_prompted_on_tuned(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Choose a prompt on validation rows for the weights of another variant, and predict with both.

    Raises:
        Failure: the other variant has no weights.
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
        raise Failure(f"{name}: the weights of {source}, its adapter, are not in {folder}")
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


def _train(
    context: VariantContext, variant: Variant, name: str, encoder: PromptEncoder, record_file: Path
) -> None:
    """Train, check that the predictions changed, and save. Runs on every rank; rank 0 saves."""
    from prooftune.training.checkpoints import elapsed_seconds, last_complete_checkpoint

    # An untuned model that an earlier variant left in memory would double the peak.
    release_cached_model()
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    seed = recipe.training_seed(name, context.training)
    base = base_to_train(context, variant, seed)
    check_output_head(base)
    # Inputs only: the scores are compared before and after, never with targets.
    probe = study.test[:PROBE_ROWS]
    # Of the untuned model, from which the reloaded one must differ.
    before = probe_scores(base, encoder, probe, head)
    setup = tuned_setup(context, variant, name, encoder, base)
    rows, arguments, module = setup.rows, setup.arguments, setup.module
    checkpoints = context.folder / CHECKPOINTS_FOLDER
    # After a crash, training goes on where it was.
    checkpoint = last_complete_checkpoint(checkpoints)
    resumed, seconds_before = checkpoint is not None, elapsed_seconds(checkpoint)
    trainable, total = adapters.trainable_counts(module.model)
    with measure_cost() as cost:
        history = setup.run()
    if module.sharded:  # scoring and saving need the whole model on one rank
        trained = module.trainable_state()
        # Freed before the whole model is loaded again.
        del base, module, setup.module, setup.run
        module = TuningModule(
            make_trainable(context, variant, base_to_train(context, variant, seed))
        )
        module.load_trainable(trained)
    model = module.model.eval()
    # Scored in the dtype in which it will be saved and loaded.
    adapters.remove_master_weights(model)
    after = probe_scores(model, encoder, probe, head)
    check_trained(name, before, after)
    # Every rank has trained; one writes.
    if distributed.rank():
        return
    # A crash while saving leaves no half-written weights that look like a finished training.
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
    if variant.pretrain:
        add_pretraining(record, pretraining_record(context, variant, name))
    # Written last: its presence marks the training as finished.
    write_json(record_file, record)
    if not setup.keeps_checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)


def tuned_setup(
    context: VariantContext,
    variant: Variant,
    name: str,
    encoder: PromptEncoder,
    base: nn.Module,
) -> TrainingSetup:
    """The training of a tuned variant.

    Args:
        context: the study; of its rows only training and validation rows are read.
        variant, name: the variant.
        encoder: renders the prompts.
        base: from `base_to_train`; adapters are added in place, unless it has some already.

    Raises:
        UsageError: the recipe's training or LoRA options cannot be used.
    """
    from prooftune.training.arguments import chosen_checkpointing, default_learning_rate
    from prooftune.training.quality import validation_quality

    recipe, head = context.recipe, variant.objective == "head"
    seed = recipe.training_seed(name, context.training)
    model = make_trainable(context, variant, base)
    objective = build_objective(context, variant, encoder, model)
    if variant.pretrain:
        load_pretrained(objective.module, context, variant, name)
    rows, validation = (
        objective.rows(context.study.train, "train"),
        objective.rows(context.training_validation, "validation"),
    )
    options = training_options(context, variant, name, seed)
    return make_setup(
        context,
        name,
        objective.module,
        rows,
        validation,
        options,
        encoder.prefix,
        collator=objective.collator,
        learning_rate=default_learning_rate(
            adapters.trainable_counts(model)[1], variant.method, continued=variant.continues
        ),
        int8=recipe.model.int8_training,
        quality=validation_quality(recipe, encoder, context.training_validation, head),
        checkpointing=chosen_checkpointing(options),
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
        # Full fine-tuning has overwritten the weights, so that the untuned model must be loaded
        # again.
        handle.release()
        untuned = context.base_model()
        before, _ = perplexity(untuned, get_output_head(untuned), context.tokenizer, text)
    else:
        changes = weight_changes.adapter_weight_changes(model)
        # The adapter switched off is the untuned model: no second copy in memory.
        with adapters.use_adapter(model, None):
            before, _ = perplexity(model, output_head, context.tokenizer, text)
    return changes, {
        "perplexity_before": before,
        "perplexity_after": after,
        "tokens": count,
        "text": text_name,
    }
