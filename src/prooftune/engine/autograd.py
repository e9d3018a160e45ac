"""Types of the contexts that PyTorch passes to custom autograd functions."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SavedTensors(Protocol):
    """A `torch.autograd.function.FunctionCtx`; subclasses declare further attributes.

    Attributes:
        saved_tensors: what the forward pass saved.
        needs_input_grad: for each input of the forward pass, whether its gradient is needed.
    """

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""
