"""The options of a training, and the record of a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainingArguments

from prooftune.errors import Failure
from prooftune.recipe import Variant
from prooftune.recipe.metrics import QUALITY_METRICS
from prooftune.recipe.variants import ClassWeights
from prooftune.utils import distributed
from prooftune.utils.files import sha256
from prooftune.variant_details import (
    LogEntry,
    PretrainingRecord,
    TrainingRecord,
    TrainingSummary,
    describe_pretraining,
)
from prooftune.variants.class_weights import describe_weights
from prooftune.variants.context import VariantContext

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


def weights_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the trained weight files of a variant."""
    return {p.name: sha256(p) for p in sorted((folder / TRAINED_FOLDER).glob("*.safetensors"))}


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
        # Logged and not configured: early stopping may have ended the training before.
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
    if variant.kind == "tuned":
        options.setdefault("num_train_epochs", variant.default_epochs)
    if _selects_by_quality(context, variant, options):
        options["metric_for_best_model"] = QUALITY_METRICS[recipe.task][0]
    if options.get("data_seed") is not None:
        # Trainings differ in the order of their rows, too.
        options["data_seed"] = int(options["data_seed"]) + context.training
    return options


def add_pretraining(record: TrainingRecord, pretraining: PretrainingRecord) -> None:
    """Add a pretraining and its cost, which is part of the variant's, to the record of a
    training."""
    cost, peak = record["cost"], pretraining["peak_memory_bytes"]
    cost["train_seconds"] += pretraining["seconds"]
    cost["train_tokens"] += round(pretraining["tokens"] * pretraining["epochs"])
    cost["peak_memory_bytes"] = max(cost["peak_memory_bytes"], peak)
    record["pretraining"] = pretraining


def _selects_by_quality(context: VariantContext, variant: Variant, options: dict[str, Any]) -> bool:
    """Whether the checkpoint is chosen by predictions on validation rows by default.

    The loss of preferences falls also where probability moves to a label that no pair names.
    """
    chosen = {"metric_for_best_model", "load_best_model_at_end", "eval_strategy", "save_strategy"}
    return (
        variant.objective == "preference"
        and variant.pairs is None
        and len(context.training_validation) > 0
        and not context.recipe.early_stopping
        and not chosen & options.keys()
    )


def log_folder(name: str, training: int) -> str:
    """Folder of the trackers' logs of one training."""
    # No variant can have this name, which has a character that names cannot have.
    return f"{name}@{training + 1}" if training else name


_OBJECTIVES = {
    "instruction": "the instruction",
    "reward": "expected cost",
    "preference": "preferences (DPO)",
}


def describe_training(
    variant: Variant,
    record: TrainingRecord,
    class_weights: ClassWeights | None = None,
    *,
    answers: bool = False,
) -> str:
    """Method, rows and hyperparameters of a training in one line; `answers`: of a task with
    answers, whose rewards are not costs of labels."""
    method = {"lora": "LoRA", "dora": "DoRA", "rslora": "rsLoRA", "full": "all weights"}
    objective = "a classification head" if variant.has_head else _OBJECTIVES[variant.objective]
    if answers and variant.objective == "reward":
        objective = "rewards of sampled answers (GRPO)"
    start = f" from {variant.start_from}" if variant.start_from else ""
    training = record["training"]
    arguments, epochs = training["arguments"], training["epochs"]
    share = training["trainable_parameters"] / training["total_parameters"]
    batch_size = (
        arguments["per_device_train_batch_size"]
        * arguments["gradient_accumulation_steps"]
        * arguments["processes"]
    )
    return (
        f"{method[variant.method]} tuned{start} with {objective} on {training['rows']:,} rows, "
        f"{share:.2%} of the weights trained, learning rate {arguments['learning_rate']:.2g}, "
        f"{epochs:.3g} epoch{'s' if epochs != 1 else ''}, batches of {batch_size}"
        f"{describe_weights(class_weights)}"
        f"{_after_pretraining(record)}"
    )


def _after_pretraining(record: TrainingRecord) -> str:
    pretraining = record.get("pretraining")
    return f", after {describe_pretraining(pretraining)}" if pretraining else ""
