"""Mixed precision of a model, the same in training and in inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prooftune.engine.fused.patching import fused


@contextmanager
def autocast(model: nn.Module) -> Iterator[None]:
    """Run inference with the precision and the layers of training.

    A 16-bit model uses 16-bit matmuls over float32 adapters; a float32 model stays float32.
    """
    first = next(model.parameters())
    dtype = getattr(model, "dtype", first.dtype)
    # Autocast would lower the precision of a float32 model.
    if dtype not in (torch.bfloat16, torch.float16):
        with fused(model):
            yield
        return
    layers = _lora_layers(model)
    before = [layer.cast_input_dtype_enabled for layer in layers]
    disable_lora_input_upcast(model)
    try:
        with torch.autocast(first.device.type, dtype=dtype), fused(model):
            yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.cast_input_dtype_enabled = enabled


def disable_lora_input_upcast(model: nn.Module) -> None:
    """Keep peft from upcasting the adapters' inputs to float32, which autocast undoes at once.

    The matmuls are the same to the last bit. Without the copies, which the backward pass would keep
    for every layer, training needs about a seventh less memory and time. Only for use under
    autocast.
    """
    for layer in _lora_layers(model):
        layer.cast_input_dtype_enabled = False


def _lora_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if "cast_input_dtype_enabled" in vars(module)]
