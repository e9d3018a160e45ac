"""The optimiser and the schedule of a training, built for a few weights and tried for one step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler

from prooftune.models.loading import device
from prooftune.preflight.findings import Finding, Options, error, note

_NEED_A_MODEL = ("galore", "apollo", "lomo", "adalomo")
"""Optimisers that look for layers of the model; only their libraries are looked for."""

_OPTIMIZER_FIELDS = ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon")
"""Fields that some optimisers do not read."""


def check_optimizer(arguments: TrainingArguments, options: Options) -> Iterator[Finding]:
    """Build the optimiser and the schedule for a few weights, and take a step."""
    name = str(options.values.get("optim", arguments.optim.value))
    # bitsandbytes keeps the state of smaller weights in 32 bits.
    layer = nn.Linear(64, 128, device="meta").to_empty(device=device())
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    if name.startswith(_NEED_A_MODEL):
        yield from _library_of(name, options)
        return
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, layer)
        optimizer = kind(layer.parameters(), **settings)
        # Some libraries fail at the first step only (a kernel that is missing, a state that does
        # not fit).
        layer(torch.ones(2, 64, device=device())).sum().backward()
        optimizer.step()
        yield from _unread(arguments, settings, options)
    except Exception as refusal:  # whatever the library raises
        yield error(
            options.key_path("optim_args" if arguments.optim_args else "optim"),
            f"{name} does not work here ({_first_line(refusal)}); adamw_torch does",
        )
        return
    try:
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
    except Exception as refusal:
        yield error(
            options.key_path("lr_scheduler_kwargs"),
            f"{arguments.lr_scheduler_type.value} does not work with "
            f"{arguments.lr_scheduler_kwargs}"
            f" ({_first_line(refusal)})",
        )


def _unread(
    arguments: TrainingArguments, settings: dict[str, Any], options: Options
) -> Iterator[Finding]:
    """Fields of the optimiser without which it is built the same."""
    for key in _OPTIMIZER_FIELDS:
        default = TrainingArguments.__dataclass_fields__[key].default
        if options.values.get(key, default) == default:
            continue
        without = copy.copy(arguments)
        setattr(without, key, default)
        # Asked of transformers, since its optimisers differ in the fields that they read.
        if Trainer.get_optimizer_cls_and_kwargs(without)[1] == settings:
            yield note(options.key_path(key), f"no effect with optim: {arguments.optim.value}")


def _library_of(name: str, options: Options) -> Iterator[Finding]:
    from transformers import utils

    prefix = "galore" if "galore" in name else "apollo" if "apollo" in name else "lomo"
    function = {"galore": "galore_torch", "apollo": "apollo_torch", "lomo": "lomo"}[prefix]
    if not getattr(utils, f"is_{function}_available")():
        yield error(
            options.key_path("optim"),
            f"{name} needs a library that is not installed ({prefix}); adamw_torch does not",
        )
    elif prefix != "lomo" and not options.values.get("optim_target_modules"):
        yield error(
            options.key_path("optim"),
            f"{name} needs training.optim_target_modules, e.g. all-linear",
        )


def _first_line(refusal: Exception) -> str:
    text = " ".join(str(refusal).split()) or type(refusal).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
