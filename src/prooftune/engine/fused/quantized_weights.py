"""Frozen linear layers whose weights bitsandbytes holds in 4 or 8 bits.

The forward pass is the library's own: 4-bit weights are dequantised for one matmul, 8-bit ones
multiplied as LLM.int8 does (Dettmers et al. 2022, arXiv 2208.07339). The backward pass dequantises
one layer's weight at a time, as QLoRA does (arXiv 2305.14314). No dequantised weight outlives its
matmul, and neither pass saves anything for the other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BitsAndBytesLinears:
    """Frozen layers on one input, at least one of them quantized."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Hold the layers; none of them may have a bias."""
        self._layers = list(layers)

    def forward(
        self, x: Tensor, lora_hiddens: Sequence[Tensor], lora_b: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """x Wᵀ + lora_hidden Bᵀ for every layer; called without gradients.

        Args:
            x: [n, in].
            lora_hiddens: each adapter's hidden values [n, r].
            lora_b: each adapter's B [out, r], in the dtype of x.

        Returns:
            [n, out] for every layer.
        """
        return tuple(
            torch.addmm(layer(x), hidden, b.T)
            for layer, hidden, b in zip(self._layers, lora_hiddens, lora_b, strict=True)
        )

    def backward(self, grads: Sequence[Tensor], grad_hidden: Tensor, lora_a: Tensor) -> Tensor:
        """Gradient of x [n, in].

        Args:
            grads: gradients of the outputs [n, out].
            grad_hidden: gradients of all adapters' hidden values [n, R].
            lora_a: all A [R, in], in the dtype of the gradients.
        """
        # The adapters' part first, so that each weight is freed after its own matmul.
        grad_x = grad_hidden @ lora_a
        for layer, grad in zip(self._layers, grads, strict=True):
            # In place: the gradient of x is the only tensor that grows over the layers.
            grad_x.addmm_(grad, dequantized_weight(layer, grad.dtype))
        return grad_x


def layer_types() -> tuple[type[nn.Linear], ...]:
    """Linear layers of bitsandbytes; none before the library is loaded, by a quantized model."""
    # Not imported: that takes seconds, and nothing is quantized before a model has loaded it.
    library = sys.modules.get("bitsandbytes")
    return (library.nn.Linear4bit, library.nn.Linear8bitLt) if library else ()


def adapter_types() -> tuple[type[nn.Module], ...]:
    """peft's LoRA layers over `layer_types`."""
    if not layer_types():
        return ()
    from peft.tuners.lora import bnb

    return bnb.Linear4bit, bnb.Linear8bitLt


def is_quantized(layer: nn.Module) -> bool:
    """Whether bitsandbytes holds the layer's weight."""
    return type(layer) in layer_types()


def dequantized_weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """A layer's weight [out, in] in a dtype, whether it is quantized or not."""
    if not is_quantized(layer):
        return layer.weight
    from peft.utils.integrations import dequantize_bnb_weight

    # 4-bit weights hold their own state, 8-bit ones that of their layer.
    weight: Tensor = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))
    return weight.to(dtype)
