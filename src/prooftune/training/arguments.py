"""`TrainingArguments` from a recipe: the user's fields as they are, and defaults where they say
nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from prooftune.errors import UsageError
from prooftune.utils import distributed

SMALL_MODEL_PARAMETERS = 500_000_000
"""Parameters below which a model counts as small for the usual learning rate."""


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
    """Build the arguments.

    Args: those of `argument_values`.

    Raises:
        UsageError: the options contradict each other or need a device that is not there.
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
    """`TrainingArguments` fields: the recipe's, and defaults where it names none.

    Args:
        options: `TrainingArguments` fields from the recipe; they win over every default here.
        folder: where checkpoints go.
        rows, validation: numbers of training and validation rows.
        seed: the study's seed.
        dtype: the model's arithmetic; bfloat16 and float16 switch mixed precision on.
        patience: evaluations without improvement before stopping, None for no early stopping.
        learning_rate: where the options name none (`usual_learning_rate`).

    Raises:
        UsageError: a number is not one.
    """
    values: dict[str, Any] = {
        "learning_rate": learning_rate,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": seed,
        "report_to": "none",
        "train_sampling_strategy": "group_by_length",
        "per_device_eval_batch_size": 32,
        "save_total_limit": 2,
        "ddp_find_unused_parameters": False,  # all that can learn takes part in every step
    }
    if not torch.cuda.is_available():
        values["use_cpu"] = True  # without it the Trainer refuses bf16 on a machine that has no GPU
    if not {"bf16", "fp16"} & options.keys():
        values["bf16"], values["fp16"] = dtype == torch.bfloat16, dtype == torch.float16
    values |= options
    try:
        values |= _schedule(values, options, rows, validation, patience)
    except (TypeError, ValueError) as error:
        raise UsageError(f"training: a number is expected: {error}") from None
    # Ours, whatever the recipe says: the pipeline relies on them.
    values |= {
        "output_dir": str(folder),
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "prediction_loss_only": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "label_names": ["labels"],
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": False,
        "dataloader_prefetch_factor": None,
    }
    return values


def default_learning_rate(parameters: int, method: str) -> float:
    """The learning rate where a recipe names none: adapters on small models want a higher one,
    whole models a lower one.

    Args:
        parameters: of the model.
        method: lora, dora, rslora or full.
    """
    if method == "full":
        return 1e-4 if parameters < SMALL_MODEL_PARAMETERS else 2e-5
    return 1e-3 if parameters < SMALL_MODEL_PARAMETERS else 2e-4


def _schedule(
    values: dict[str, Any],
    options: dict[str, Any],
    rows: int,
    validation: int,
    patience: int | None,
) -> dict[str, Any]:
    """Log 50 times, evaluate and checkpoint four times per training, keep the best, unless told
    otherwise."""
    window = (
        int(values["per_device_train_batch_size"])
        * int(values.get("gradient_accumulation_steps", 1))
        * distributed.world_size()
    )
    steps = int(values.get("max_steps", -1))
    if steps <= 0:
        steps = math.ceil(math.ceil(rows / window) * float(values["num_train_epochs"]))
    quarter = max(1, math.ceil(steps / 4))
    schedule: dict[str, Any] = {}
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
        schedule["save_strategy"] = "epoch"  # the best can only be kept if it was saved
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
    if patience and "metric_for_best_model" not in options:
        schedule["metric_for_best_model"] = "loss"
    return schedule


def device_problems(options: dict[str, Any]) -> dict[str, str]:
    """Field -> why it cannot work with the device that is here, and what to do."""
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
    if cuda and options.get("use_cpu"):
        problems["use_cpu"] = (
            "the GPU is used wherever there is one; hide it with CUDA_VISIBLE_DEVICES= instead"
        )
    return problems
