"""Copies from the host to the device that do not make the host wait for queued work.

A plain ``tensor.to("cuda")``, and ``torch.tensor(values, device="cuda")``, wait until the GPU has
finished everything that was started before: from ordinary memory the driver copies in order. From
pinned memory the copy is queued like any other operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device."""
    if device.type != "cuda":
        return tensor.to(device)
    # PyTorch caches pinned memory, and reuses it only after the copy.
    return tensor.pin_memory().to(device, non_blocking=True)


def upload_numbers(values: Sequence[object], device: torch.device) -> Tensor:
    """Integers, or lists of integers, as a tensor [n, ...] on the device."""
    return upload(torch.tensor(values), device)
