"""The arithmetic of one model, the same in training and in use."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def autocast(model: nn.Module) -> AbstractContextManager[Any]:
    """The arithmetic of scoring is that of training: 16-bit products over float32 adapters."""
    first = next(model.parameters())
    dtype = getattr(model, "dtype", first.dtype)
    if dtype in (torch.bfloat16, torch.float16):
        return torch.autocast(first.device.type, dtype=dtype)
    return nullcontext()
