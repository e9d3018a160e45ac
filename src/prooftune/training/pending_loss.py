"""The loss of a training step on its way from the GPU, for which the host does not wait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PendingLoss:
    """A loss on its way to the host.

    Attributes:
        value: on the host, once the event has happened.
        event: of the copy; None if the loss was computed on the host.
        step: of the training.
    """

    value: Tensor
    event: torch.cuda.Event | None
    step: int

    @classmethod
    def of(cls, loss: Tensor, step: int) -> PendingLoss:
        if loss.device.type != "cuda":
            return cls(loss.detach(), None, step)
        value = torch.empty((), dtype=loss.dtype, pin_memory=True)
        value.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return cls(value, event, step)

    def read(self) -> float:
        if self.event is not None:
            self.event.synchronize()
        return self.value.item()
