"""`TrainingArguments` from a recipe: the recipe's fields unchanged, and defaults for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from prooftune.errors import UsageError
from prooftune.models.loading import device
from prooftune.recipe.library_fields import library_fields
from prooftune.utils import distributed

SMALL_MODEL_PARAMETERS = 500_000_000
"""Models below this number of parameters count as small for `default_learning_rate`."""


def training_arguments(
    options: dict[str, Any],
    folder: Path,
    *,
    rows: int,
    validation: int,
    seed: int,
    dtype: torch.dtype,
    patience: int | None,
    learning_rate: float = 2e-4,
) -> TrainingArguments:
    """Build the arguments. The parameters are those of `argument_values`.

    Raises:
        UsageError: the options contradict each other or need a device that is missing.
    """
    for key, message in device_problems(options).items():
        raise UsageError(f"training.{key}: {message}")
    values = argument_values(
        options,
        folder,
        rows=rows,
        validation=validation,
        seed=seed,
        dtype=dtype,
        patience=patience,
        learning_rate=learning_rate,
    )
    try:
        arguments = TrainingArguments(**values)
    except (TypeError, ValueError, ImportError, RuntimeError) as error:
        raise UsageError(f"training: {error}") from error
    # Several GPUs without torchrun would be nn.DataParallel, which cannot scatter ragged batches.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def argument_values(
    options: dict[str, Any],
    folder: Path,
    *,
    rows: int,
    validation: int,
    seed: int,
    dtype: torch.dtype,
    patience: int | None,
    learning_rate: float = 2e-4,
) -> dict[str, Any]:
    """`TrainingArguments` fields: the recipe's, and defaults for the others.

    Args:
        options: `TrainingArguments` fields of the recipe; they override every default here.
        folder: where checkpoints are written.
        rows, validation: numbers of training and validation rows.
        seed: the study's seed.
        dtype: the model's compute dtype; bfloat16 and float16 turn mixed precision on.
        patience: evaluations without improvement before stopping; None: no early stopping.
        learning_rate: default, if the options have none (see `default_learning_rate`).

    Raises:
        UsageError: an option that must be a number is not one.
    """
    values: dict[str, Any] = {
        "learning_rate": learning_rate,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "linear",
        # A share of all steps, which transformers takes for values below 1.
        "warmup_steps": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": seed,
        "report_to": "none",
        "train_sampling_strategy": "group_by_length",
        "per_device_eval_batch_size": 32,
        # The best checkpoint and the newest.
        "save_total_limit": 2,
        "ddp_find_unused_parameters": False,  # every parameter is used in every step
        # The trainer stops at a loss that is not finite; the filter would read every loss, twice.
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if device().type == "cpu":
        values["use_cpu"] = True  # or the Trainer rejects bf16 without a GPU
    if not {"bf16", "fp16"} & options.keys():
        values["bf16"], values["fp16"] = dtype == torch.bfloat16, dtype == torch.float16
    values |= _current_names(options)  # the recipe wins
    try:
        values |= _schedule(values, options, rows, validation, patience)
    except (TypeError, ValueError) as error:
        raise UsageError(f"training: a number is expected: {error}") from None
    # Not configurable: the pipeline relies on these values.
    values |= {
        "output_dir": str(folder),
        # The Trainer would drop our columns: it compares them with the signature of `forward`.
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "prediction_loss_only": True,
        "label_names": ["labels"],
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
    }
    return values


def _current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by the names of this release of transformers, which warns of the older ones."""
    values = dict(options)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        new = name.replace("gradient", "activation")
        if name in values and new in library_fields("training"):
            old = values.pop(name)
            # As transformers: the older name counts where the newer one is not set.
            if values.get(new) is None:
                values[new] = old
    return values


def chosen_checkpointing(options: dict[str, Any]) -> bool | None:
    """Whether the recipe turns gradient checkpointing on or off; None if it says nothing."""
    for key in ("activation_checkpointing", "gradient_checkpointing"):
        if options.get(key) is not None:
            return bool(options[key])
    return None


CONTINUED_SHARE = 0.1
"""Default learning rate of training a tuned model further, as a share of the tuned one's."""


def default_learning_rate(parameters: int, method: str, *, continued: bool = False) -> float:
    """The learning rate if the recipe sets none: higher for adapters and for small models.

    Args:
        parameters: number of the model's parameters.
        method: ``lora``, ``dora``, ``rslora`` or ``full``.
        continued: whether the model is tuned already (``objective: reward`` or ``preference``).
    """
    if continued:
        return CONTINUED_SHARE * default_learning_rate(parameters, method)
    if method == "full":
        return 1e-4 if parameters < SMALL_MODEL_PARAMETERS else 2e-5
    return 1e-3 if parameters < SMALL_MODEL_PARAMETERS else 2e-4


def planned_steps(values: Mapping[str, Any], rows: int) -> int:
    """Optimiser steps of a training by its arguments and its number of rows."""
    steps = int(values.get("max_steps", -1))
    if steps > 0:
        return steps
    global_batch = (
        int(values["per_device_train_batch_size"])
        * int(values.get("gradient_accumulation_steps", 1))
        * distributed.world_size()
    )
    return math.ceil(math.ceil(rows / global_batch) * float(values["num_train_epochs"]))


def _schedule(
    values: dict[str, Any],
    options: dict[str, Any],
    rows: int,
    validation: int,
    patience: int | None,
) -> dict[str, Any]:
    """Defaults: log 50 times, evaluate and checkpoint four times per training, keep the best."""
    steps = planned_steps(values, rows)
    quarter = max(1, math.ceil(steps / 4))
    schedule: dict[str, Any] = {}
    if steps == 1 and "warmup_steps" not in options:
        # A warm-up starts at a learning rate of 0, and there is no second step.
        schedule["warmup_steps"] = 0
    if "logging_steps" not in options:
        schedule["logging_steps"] = max(1, steps // 50)
    if "eval_strategy" not in options:
        schedule |= {
            "eval_strategy": "steps" if validation else "no",
            "eval_steps": options.get("eval_steps", quarter),
        }
    evaluates = str(options.get("eval_strategy", "steps"))
    wants_best = bool(patience or options.get("metric_for_best_model"))
    if "save_strategy" not in options and wants_best and evaluates == "epoch":
        schedule["save_strategy"] = "epoch"  # the best checkpoint must have been saved
    elif "save_strategy" not in options:
        schedule |= {
            "save_strategy": "steps",
            "save_steps": options.get("save_steps", schedule.get("eval_steps", quarter)),
        }
    if "load_best_model_at_end" not in options:
        same = (
            schedule.get("save_steps") == schedule.get("eval_steps")
            and schedule.get("eval_strategy") == "steps"
        )
        schedule["load_best_model_at_end"] = bool(
            validation and (same or wants_best) and evaluates != "no"
        )
    # transformers' EarlyStoppingCallback asserts that a metric is named.
    if patience and "metric_for_best_model" not in options:
        schedule["metric_for_best_model"] = "loss"
    return schedule


def device_problems(options: dict[str, Any]) -> dict[str, str]:
    """Field -> why it does not work on this device, and what to do."""
    problems: dict[str, str] = {}
    optimizer = str(options.get("optim", ""))
    cuda = torch.cuda.is_available()
    if not cuda and (optimizer.startswith("paged_") or optimizer.endswith("8bit")):
        problems["optim"] = f"{optimizer} needs a CUDA GPU and there is none here; use adamw_torch"
    if not cuda and options.get("fp16"):
        problems["fp16"] = (
            "fp16 needs a CUDA GPU and there is none here; remove it for the best of this machine"
        )
    if not cuda and options.get("tf32"):
        problems["tf32"] = (
            "TF32 needs an NVIDIA GPU of the Ampere generation or newer and there is none here; "
            "remove it"
        )
    if device().type == "mps" and options.get("bf16"):
        problems["bf16"] = "Prooftune trains in float32 on Apple's GPUs; remove it"
    if device().type != "cpu" and options.get("use_cpu"):
        hide = "CUDA_VISIBLE_DEVICES=" if cuda else "PROOFTUNE_MPS=0"
        problems["use_cpu"] = f"the GPU is used wherever there is one; hide it with {hide} instead"
    return problems
