"""Gated MLPs (SwiGLU, arXiv 2002.05202): down(silu(gate(x)) · up(x)), with few saved arrays.

Where all three layers have plain LoRA adapters, the MLP is one autograd function: between two
matmuls of a small model, Python's share is one in ten, and three functions take three times as much
of it. The compiled kernels are called in the same order, so the results are the same to the last
bit. Other gated MLPs of this formula call their layers and keep two arrays for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prooftune.engine.autograd import SavedTensors
from prooftune.engine.fused.lora import FusedLoraGroup
from prooftune.engine.kernels import pointwise
from prooftune.engine.kernels.lora_linear import LoraLinears

LAYERS = (("gate_proj", "up_proj"), ("down_proj",))
"""Children of a gated MLP, by their input."""


class GatedMLP(Protocol):
    """A gated MLP of transformers."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Any:
        """The MLP's own computation."""


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up, which saves only its inputs."""

    @staticmethod
    def forward(ctx: SavedTensors, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return pointwise.swiglu(gate, up)

    @staticmethod
    def backward(ctx: SavedTensors, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return pointwise.swiglu_backward(gate, up, grads[0])


class _Context(SavedTensors, Protocol):
    scaling: tuple[float, float]


class _LoraGatedMLP(torch.autograd.Function):
    """A gated MLP of frozen layers with LoRA adapters; x is [n, in], the result [n, out].

    `scaling` has the factors of the adapters on x and of those of `down`. The weights are W of gate
    and up, their A, their B, then W, A and B of down.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, scaling: tuple[float, float], *weights: Tensor) -> Tensor:
        gate_up = _gate_up(x, weights, scaling[0])
        hidden, (gate, up) = gate_up.forward()
        product = pointwise.swiglu(gate, up)
        down_hidden, (out,) = _down(product, weights, scaling[1]).forward()
        ctx.scaling = scaling
        ctx.save_for_backward(x, hidden, gate, up, product, down_hidden, *weights)
        return out

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, gate, up, product, down_hidden, *weights = ctx.saved_tensors
        _, grad_product, grad_down_a, grad_down_b = _down(
            product, weights, ctx.scaling[1]
        ).backward(down_hidden, grads)
        assert grad_product is not None
        # Nothing else refers to this gradient.
        grad_gate_up = pointwise.swiglu_backward(gate, up, grad_product, overwrite_grad=True)
        _, grad_x, grad_a, grad_b = _gate_up(x, weights, ctx.scaling[0]).backward(
            hidden, grad_gate_up, with_grad_x=ctx.needs_input_grad[0]
        )
        # In the order of the arguments of `forward`; W are frozen.
        return grad_x, None, None, None, *grad_a, *grad_b, None, *grad_down_a, *grad_down_b


def _gate_up(x: Tensor, weights: Sequence[Tensor], scaling: float) -> LoraLinears:
    return LoraLinears(x, weights[0:2], weights[2:4], weights[4:6], scaling)


def _down(product: Tensor, weights: Sequence[Tensor], scaling: float) -> LoraLinears:
    return LoraLinears(product, weights[6:7], weights[7:8], weights[8:9], scaling)


def gated_mlp_forward(mlp: GatedMLP, groups: Sequence[FusedLoraGroup]) -> Callable[..., Any]:
    """The replacement for the forward of a gated MLP with SiLU.

    Args:
        mlp: the module.
        groups: the groups of its LoRA layers, gate and up first.
    """
    original = type(mlp).forward
    fusible = [len(group.layers) for group in groups] == [2, 1]

    def forward(x: Tensor) -> Any:
        if fusible and all(group.computes_plain_lora(x) for group in groups):
            gate_up, down = groups
            rows = x.reshape(-1, x.shape[-1])
            scaling = gate_up.scaling(), down.scaling()
            out: Tensor = _LoraGatedMLP.apply(  # type: ignore[no-untyped-call]
                rows, scaling, *gate_up.weights(rows), *down.weights(rows)
            )
            return out.view(*x.shape[:-1], out.shape[-1])
        gate, up = mlp.gate_proj(x), mlp.up_proj(x)
        if gate.dtype != up.dtype:
            return original(mlp, x)
        return mlp.down_proj(_SwiGLU.apply(gate, up))  # type: ignore[no-untyped-call]

    return forward
