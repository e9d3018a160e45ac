"""The tuned variants: train, save, load what was saved, prove that it is what was trained, and
score it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.forward import check_output_head, get_output_head
from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.precision import autocast
from prooftune.engine.scoring import score_labels
from prooftune.errors import Failure, UsageError
from prooftune.models import adapters, loading, weight_changes
from prooftune.recipe import Scoring, Variant
from prooftune.tasks.classification import class_pairs, label_scores
from prooftune.tasks.prompts import PromptEncoder
from prooftune.training.objective import TrainingRow, TuningModule, head_rows, instruction_rows
from prooftune.types import Example
from prooftune.utils import distributed
from prooftune.utils.files import atomic_path, read_json, sha256, write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.forgetting import general_text, perplexity
from prooftune.variants.model_handle import ModelHandle, release_cached_model
from prooftune.variants.prompting import score_splits

TRAINED_FOLDER = "trained"
_RECORDED = (
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
"""Training arguments that a reader wants to see, whether the recipe names them or not."""

_PROBE_WORDS = ("The", "yes", "no", "unanswerable")
"""Answers whose probabilities are compared where a study has no labels."""


def run_tuned(context: VariantContext, variant: Variant, name: str, base: Path) -> VariantOutput:
    """Train the variant (or resume it), then evaluate only what was read back from disk.

    Args:
        context: the study; checkpoints, the trained part and its facts go into its folder.
        variant: objective, method and the fields that differ from the recipe's.
        name: the variant's name, for what is shown.
        base: folder of the recipe, for the text on which forgetting is measured.

    Raises:
        UsageError: the recipe's training options or its text cannot be used.
        Failure: training diverged, or what was saved does not behave as what was trained.
    """
    head = variant.objective == "head"
    text = general_text(
        context.recipe.forgetting, base
    )  # before training, so that a wrong name costs nothing
    rendering = context.rendering(variant.prompt)
    encoder = context.encoder(rendering)
    write_json(context.folder / "rendering.json", rendering.to_json())
    # What another variant has learned is read from its folder, beside this one.
    place = context.folder.parent / variant.adapter if variant.adapter else context.folder
    facts_file = place / "training.json"
    if not ((place / TRAINED_FOLDER).is_dir() and facts_file.is_file()):
        if variant.adapter:
            raise UsageError(
                f"{name}: adapter: {variant.adapter} must stand before it among the variants"
            )
        distributed.run_on_all_ranks(_train, context, variant, name, encoder, facts_file)
    facts = read_json(facts_file)
    held = ModelHandle(
        partial(
            adapters.load_tuned,
            context.model_folder,
            place / TRAINED_FOLDER,
            context.recipe.model,
            quantization=context.recipe.quantization,
            labels=context.study.labels if head else None,
        )
    )
    if variant.adapter:  # proved when it was trained
        outcome = score_splits(context, held, encoder, name, f"what {variant.adapter} has learned")
        outcome.details["objective"], outcome.details["method"] = variant.objective, facts["method"]
        outcome.details["weights_sha256"] = _digests(place)
        return outcome
    verify_reload(
        held.model, encoder, context, head, facts["probe"], exact=variant.method != "full"
    )
    outcome = score_splits(context, held, encoder, name, _describe(variant, facts), head=head)
    outcome.details["cost"] |= facts["cost"] | {
        "peak_memory_bytes": max(
            facts["cost"]["peak_memory_bytes"], outcome.details["cost"]["peak_memory_bytes"]
        )
    }
    outcome.details["training"] = facts["training"]
    outcome.details["objective"], outcome.details["method"] = variant.objective, variant.method
    outcome.details["weights_sha256"] = _digests(place)
    outcome.details |= _before_and_after(context, held.model, variant, *text)
    return outcome


def _digests(place: Path) -> dict[str, str]:
    return {p.name: sha256(p) for p in sorted((place / TRAINED_FOLDER).glob("*.safetensors"))}


def _train(
    context: VariantContext, variant: Variant, name: str, encoder: PromptEncoder, facts_file: Path
) -> None:
    """Train and prove that something was learned; in every process, of which the first saves it."""
    from prooftune.training.arguments import default_learning_rate, training_arguments
    from prooftune.training.trainer import elapsed_seconds, last_complete_checkpoint, train

    release_cached_model()
    recipe, study, head = context.recipe, context.study, variant.objective == "head"
    rows, validation = (
        training_rows(context, encoder, examples, head)
        for examples in (study.train, study.validation)
    )
    base = base_to_train(context, variant, encoder)
    check_output_head(base)
    probe = study.test[:8]
    before = _scores(base, encoder, probe, head)
    model = adapters.make_trainable(base, variant, {**recipe.lora, **variant.lora})
    options = {**recipe.training, **variant.training}
    arguments = training_arguments(
        options,
        context.folder / "checkpoints",
        rows=len(rows),
        validation=len(validation),
        seed=recipe.seed,
        dtype=loading.compute_dtype(recipe.model.dtype),
        patience=recipe.early_stopping,
        learning_rate=default_learning_rate(adapters.trainable_counts(model)[1], variant.method),
    )
    checkpoint = last_complete_checkpoint(context.folder / "checkpoints")
    resumed, before_it = checkpoint is not None, elapsed_seconds(checkpoint)
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
            description=f"{name}: training",
        )
    if module.sharded:  # what follows asks and saves one whole model
        learned = module.trainable_state()
        del base, model, module
        module = TuningModule(
            adapters.make_trainable(
                base_to_train(context, variant, encoder), variant, {**recipe.lora, **variant.lora}
            )
        )
        module.load_trainable(learned)
    model = module.model.eval()
    after = _scores(model, encoder, probe, head)
    if not after.isfinite().all():
        raise Failure(
            f"{name}: after its last step the model answers with nothing but numbers that are not "
            "finite. Lower "
            "training.learning_rate, or use bf16 instead of fp16."
        )
    if (after - before).abs().max().item() < 1e-4:
        raise Failure(
            f"{name}: after training the model still answers exactly as before. Nothing was "
            "learned: check "
            "training.learning_rate, training.max_steps and lora.target_modules."
        )
    if distributed.rank():
        return
    with atomic_path(context.folder / TRAINED_FOLDER) as temporary:
        adapters.save_tuned(
            model, temporary, variant.method, loading.compute_dtype(recipe.model.dtype)
        )
    tokens = sum(len(encoder.prefix) + len(row) for row in rows)
    epochs = next((log["epoch"] for log in reversed(history) if "epoch" in log), 0.0)
    used = {name: getattr(arguments, name) for name in _RECORDED} | {
        "processes": distributed.world_size()
    }
    write_json(
        facts_file,
        {
            "method": variant.method,
            "training": {
                "log_history": history,
                "trainable_parameters": trainable,
                "total_parameters": total,
                "rows": len(rows),
                "epochs": epochs,
                "resumed": resumed,
                "arguments": used,
            },
            "probe": {"before": before.tolist(), "after": after.tolist()},
            "cost": {
                "train_seconds": before_it + cost.seconds,
                "train_tokens": round(tokens * epochs),
                "peak_memory_bytes": cost.peak_memory_bytes,
            },
        },
    )
    remove_checkpoints(context.folder)


def remove_checkpoints(folder: Path) -> None:
    """Remove a variant's checkpoints, but keep what TensorBoard logged (`training.report_to`).

    Args:
        folder: the variant's; the logs move from its `checkpoints/runs`, where the trainer writes
            them, to its `tensorboard`.
    """
    logs = folder / "checkpoints" / "runs"
    if logs.is_dir():
        shutil.copytree(logs, folder / "tensorboard", dirs_exist_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def base_to_train(context: VariantContext, variant: Variant, encoder: PromptEncoder) -> Any:
    """The model that learns, its head's and its adapters' first values those of the seed."""
    torch.manual_seed(context.recipe.seed)
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
    """What is learned from these examples."""
    if head:
        return head_rows(class_pairs(examples, encoder))
    return instruction_rows(
        context.task_adapter.training_pairs(examples, encoder), encoder.stop_token_id
    )


def _scores(model: Any, encoder: PromptEncoder, probe: Sequence[Example], head: bool) -> Tensor:
    """Scores [rows, labels] of the probe rows, in the same arithmetic before and after; for
    questions, of a few words."""
    was_training = model.training
    model.eval()
    rows = [encoder.encode(e.inputs).token_ids for e in probe]
    with without_prepacked_weights(), autocast(model):
        if head or encoder.label_ids:
            scores = label_scores(model, encoder, rows, Scoring(), head=head, description=None)
        else:
            words = [encoder.encode_answer(word) for word in _PROBE_WORDS]
            scores = torch.zeros(len(rows), len(words), dtype=torch.float64)
            for numbers, values in score_labels(
                model, encoder.prefix, rows, words, encoder.stop_token_id
            ):
                scores[numbers] = values.double()
    model.train(was_training)
    return scores


def verify_reload(
    model: Any,
    encoder: PromptEncoder,
    context: VariantContext,
    head: bool,
    probe: dict[str, list[list[float]]],
    *,
    exact: bool,
) -> None:
    """What is evaluated must be what was trained: neither the untuned model nor one whose head was
    lost.

    The scores must be nearer to the trained model's than to the untuned one's. A whole model is
    saved in the arithmetic's dtype, so they may move by a rounding besides; an adapter's may not.
    """
    actual = _scores(model, encoder, context.study.test[:8], head)
    before, after = (torch.tensor(probe[name], dtype=actual.dtype) for name in ("before", "after"))
    difference = (actual - after).abs().max().item()
    learned = (after - before).abs().max().item()
    allowed = max(1e-3, min(0.02, learned / 2)) if exact else max(0.02, min(0.5, learned / 2))
    if not difference <= allowed:
        raise Failure(
            f"the saved weights in {context.folder / TRAINED_FOLDER} do not answer as the trained model "
            "did (largest difference "
            f"of a log-probability {difference:.3g}). Delete that folder to train again; if it "
            "returns, report it."
        )


def _before_and_after(
    context: VariantContext, model: Any, variant: Variant, text: str, text_name: str
) -> dict[str, Any]:
    """Weight change by layer and perplexity on general text, against the untuned model."""
    untuned = context.base_model()
    readout = get_output_head(untuned)
    before, count = perplexity(untuned, readout, context.tokenizer, text)
    own_readout = readout if variant.objective == "head" else get_output_head(model)
    after, _ = perplexity(model, own_readout, context.tokenizer, text)
    changed = (
        weight_changes.full_weight_changes(untuned, model)
        if variant.method == "full"
        else weight_changes.adapter_weight_changes(model)
    )
    return {
        "changes": changed,
        "forgetting": {
            "perplexity_before": before,
            "perplexity_after": after,
            "tokens": count,
            "text": text_name,
        },
    }


def _describe(variant: Variant, facts: dict[str, Any]) -> str:
    what = {"lora": "LoRA", "dora": "DoRA", "rslora": "rsLoRA", "full": "all weights"}[
        variant.method
    ]
    where = "a classification head" if variant.objective == "head" else "the instruction"
    share = facts["training"]["trainable_parameters"] / facts["training"]["total_parameters"]
    used = facts["training"]["arguments"]
    epochs = facts["training"]["epochs"]
    batch = (
        used["per_device_train_batch_size"]
        * used["gradient_accumulation_steps"]
        * used["processes"]
    )
    return (
        f"{what} tuned with {where} on {facts['training']['rows']:,} rows, {share:.2%} of the "
        "weights trained, learning rate "
        f"{used['learning_rate']:.2g}, {epochs:.3g} epoch{'s' if epochs != 1 else ''}, batches of "
        f"{batch}"
    )
