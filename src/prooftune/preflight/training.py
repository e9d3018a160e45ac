"""Training options of one variant: the library's objects are built early, so that what they refuse
is known before anything is computed."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels

from prooftune.errors import UsageError, nearest
from prooftune.models.loading import compute_dtype
from prooftune.preflight.findings import Finding, Options, error, merged_options, note
from prooftune.preflight.optimizer import check_optimizer
from prooftune.preflight.trackers import check_trackers
from prooftune.preflight.training_fields import NOTED, REFUSED, check_fields
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.metrics import QUALITY_METRICS
from prooftune.training.arguments import argument_values, device_problems, planned_steps

NOMINAL_ROWS, NOMINAL_VALIDATION = 1_000, 100
"""Numbers of rows before the data is read."""

_NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
"""Schedules to which transformers gives no warm-up steps."""

_RANGES: dict[str, tuple[float, float, str]] = {
    "learning_rate": (0.0, math.inf, "0 or more"),
    "weight_decay": (0.0, math.inf, "0 or more"),
    "max_grad_norm": (0.0, math.inf, "0 or more; 0 turns clipping off"),
    "label_smoothing_factor": (0.0, 0.999, "0 or more, and below 1"),
    "adam_beta1": (0.0, 0.999999, "0 or more, and below 1"),
    "adam_beta2": (0.0, 0.999999, "0 or more, and below 1"),
    "adam_epsilon": (0.0, math.inf, "0 or more"),
    "num_train_epochs": (0.0, math.inf, "0 or more"),
}
"""Field -> lowest and highest value, and the range in words. The libraries take some of these
without a word: a negative weight decay makes weights grow."""

_SAMPLING = ("group_by_length", "random", "sequential")


def check_training(
    recipe: Recipe, name: str, variant: Variant, rows: tuple[int, int] | None = None
) -> Iterator[Finding]:
    """Findings about the training options of a tuned variant.

    Args:
        recipe: the recipe.
        name, variant: one that is trained.
        rows: numbers of training and validation rows; None: not yet known.
    """
    options = merged_options("training", recipe.training, name, variant.training)
    fields = list(check_fields(options))
    yield from fields
    device_errors = device_problems(options.values)
    for key, message in device_errors.items():
        yield error(options.key_path(key), message)
    yield from check_trackers(options)
    yield from _values(options, recipe, rows)
    if out_of_range := list(_out_of_range(options)):
        yield from out_of_range
        return  # the library would refuse some of them in its own words
    refused = {*device_errors, *REFUSED, *NOTED}
    # What is reported already must not fail again with the library's words.
    clean = {k: v for k, v in options.values.items() if k not in refused and k != "report_to"}
    if clean.get("fsdp") and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return  # said by _values
    yield from _built(recipe, options, clean, rows)


def _values(options: Options, recipe: Recipe, rows: tuple[int, int] | None) -> Iterator[Finding]:
    """Values that mean something else here, or nothing together."""
    values = options.values
    sampling = values.get("train_sampling_strategy", _SAMPLING[0])
    if sampling not in _SAMPLING:
        yield error(
            options.key_path("train_sampling_strategy"),
            f"'{sampling}' is not supported: one of {', '.join(_SAMPLING)}",
        )
    # The Trainer looks them up when it starts.
    for key in ("log_level", "log_level_replica"):
        level = values.get(key)
        if level is not None and level not in trainer_log_levels:
            yield error(
                options.key_path(key),
                f"'{level}' is not a level{nearest(str(level).lower(), trainer_log_levels)}: one "
                f"of {', '.join(trainer_log_levels)}",
            )
    schedule = str(values.get("lr_scheduler_type"))
    if schedule in _NO_WARMUP and values.get("warmup_steps"):
        yield note(
            options.key_path("warmup_steps"),
            f"lr_scheduler_type: {schedule} does no warm-up; constant_with_warmup does",
        )
    if schedule.startswith("constant") and values.get("lr_scheduler_kwargs"):
        yield note(
            options.key_path("lr_scheduler_kwargs"), f"no effect with lr_scheduler_type: {schedule}"
        )
    if values.get("fsdp") and int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield error(
            options.key_path("fsdp"),
            "FSDP needs several processes, each with a GPU: start them with torchrun "
            "(docs/scale.md), or remove it",
        )
    if _metric_is_unused(values):
        yield note(
            options.key_path("metric_for_best_model"),
            "no effect: load_best_model_at_end is false or nothing is evaluated",
        )
    if values.get("save_only_model"):
        yield note(
            options.key_path("save_only_model"),
            "a training that is interrupted resumes with a fresh optimiser",
        )
    metric = values.get("metric_for_best_model")
    known = ("loss", *QUALITY_METRICS[recipe.task])
    if metric is not None and str(metric).removeprefix("eval_") not in known:
        yield error(
            options.key_path("metric_for_best_model"),
            f"'{metric}' is not measured during training{nearest(str(metric), known)}: one of "
            f"{', '.join(known)}",
        )
    elif metric is not None and values.get("fsdp") and not str(metric).endswith("loss"):
        yield error(
            options.key_path("metric_for_best_model"),
            f"'{metric}' is not measured while FSDP spreads the model; use loss",
        )
    evaluates = str(values.get("eval_strategy", "steps")) != "no"
    if recipe.early_stopping and not evaluates:
        yield error(
            "early_stopping",
            f"{options.key_path('eval_strategy')} is no, so nothing is evaluated; "
            "remove one of them",
        )
    if rows is not None and not rows[1]:
        yield from _without_validation(options, recipe)


def _out_of_range(options: Options) -> Iterator[Finding]:
    for key, (low, high, words) in _RANGES.items():
        value = options.values.get(key)
        if isinstance(value, int | float) and not low <= value <= high:
            yield error(options.key_path(key), f"{value} is out of range: {words}")


def _metric_is_unused(values: dict[str, Any]) -> bool:
    """Whether a metric is named by which nothing is chosen."""
    plateau = str(values.get("lr_scheduler_type")) in ("reduce_lr_on_plateau", "greedy")
    chooses = values.get("load_best_model_at_end", True) or plateau
    evaluates = str(values.get("eval_strategy", "steps")) != "no"
    return "metric_for_best_model" in values and not (chooses and evaluates)


def _without_validation(options: Options, recipe: Recipe) -> Iterator[Finding]:
    remedy = "give data.validation or a splitting.validation share"
    if recipe.early_stopping:
        yield error("early_stopping", f"early_stopping needs validation rows: {remedy}")
    for key in ("eval_strategy", "load_best_model_at_end"):
        value = options.values.get(key)
        if value and value != "no":
            yield error(options.key_path(key), f"there are no validation rows: {remedy}")


class _DryArguments(TrainingArguments):  # type: ignore[misc]
    """Checks its values as the library does, and touches neither devices nor processes."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        self._n_gpu = 0
        # Building the real one would start a process group or claim a GPU.
        return torch.device("cpu")


def _built(
    recipe: Recipe, options: Options, values: dict[str, Any], rows: tuple[int, int] | None
) -> Iterator[Finding]:
    """What `TrainingArguments`, its optimiser and its schedule refuse."""
    train, validation = rows or (NOMINAL_ROWS, NOMINAL_VALIDATION)
    precision = compute_dtype(recipe.model.dtype)
    if not torch.cuda.is_available() and precision == torch.float16:
        precision = torch.float32  # said by the rules of precision
    # `TrainingArguments` sets variables for accelerate, which a check must not leave behind.
    environment = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments = _DryArguments(
                **argument_values(
                    # It changes a global setting of PyTorch as soon as it is built.
                    {k: v for k, v in values.items() if k != "tf32"},
                    Path(folder),
                    rows=train,
                    validation=validation,
                    seed=recipe.seed,
                    dtype=precision,
                    patience=recipe.early_stopping,
                )
            )
    except (TypeError, ValueError, ImportError, RuntimeError, UsageError) as refusal:
        # The library speaks of its command line's options.
        message = re.sub(r"--(?=[a-z_]+)", "", str(refusal).removeprefix("training: "))
        yield error("training", " ".join(message.split()))
        return
    finally:
        os.environ.clear()
        os.environ.update(environment)
    yield from _warmup_only(arguments, options, train)
    yield from check_optimizer(arguments, options)


def _warmup_only(arguments: TrainingArguments, options: Options, rows: int) -> Iterator[Finding]:
    """A warm-up that leaves no step with a learning rate above 0."""
    warms_up = str(options.values.get("lr_scheduler_type")) not in _NO_WARMUP
    if warms_up and planned_steps(vars(arguments), rows) == 1 and arguments.get_warmup_steps(1):
        yield error(
            options.key_path("warmup_steps"),
            "the training has one step, which a warm-up gives a learning rate of 0; set "
            "warmup_steps: 0, or train longer",
        )
