"""The last layer's per-token work, only at the positions whose hidden states are needed.

The last layer's keys and values are needed at every token. What follows its attention (the output
projection and the MLP: 84% of the layer's matmul operations in SmolLM2) is needed only where logits
are computed. Elsewhere the layer's output is left wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

DENSE_MLP = {"gate_proj", "up_proj", "down_proj"}
"""Children of a dense MLP, which maps every token to one vector and does nothing else."""


@contextmanager
def compute_only_positions(backbone: nn.Module, positions: Tensor) -> Iterator[None]:
    """Compute the last layer of a forward pass at some positions only.

    Everything is computed for backbones without layers of ``self_attn.o_proj`` and a dense ``mlp``,
    and for layers that are recomputed in the backward pass (gradient checkpointing).

    Args:
        backbone: the transformer.
        positions: [n] indices into the tokens of all rows, one row after another.
    """
    modules = per_token_modules(backbone)
    if not modules:
        yield
        return
    # At least one position: not every kind of layer supports empty inputs.
    positions = positions if len(positions) else positions.new_zeros(1)
    with ExitStack() as hooks:
        for module in modules:
            gather = _GatherPositions(positions)
            for hook in (
                module.register_forward_pre_hook(gather.before),
                module.register_forward_hook(gather.after),
            ):
                hooks.callback(hook.remove)
        yield


def per_token_modules(backbone: nn.Module) -> list[nn.Module]:
    """The last layer's modules after attention; none if they must run on every token."""
    layers = getattr(backbone, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return []
    last: Any = layers[-1]
    projection, mlp = (
        getattr(getattr(last, "self_attn", None), "o_proj", None),
        getattr(last, "mlp", None),
    )
    if not isinstance(projection, nn.Module) or not isinstance(mlp, nn.Module):
        return []
    # Recomputation calls the modules again after the hooks are gone.
    recomputed = backbone.training and getattr(last, "gradient_checkpointing", False)
    return (
        [projection, mlp]
        if {name for name, _ in mlp.named_children()} >= DENSE_MLP and not recomputed
        else []
    )


class _GatherPositions:
    """Hooks that run a module on some of its input vectors; the output is zero for the others.

    A position that occurs twice is computed twice: removing it would make the host wait for the
    GPU. Only its first output is used, so its gradient counts once.
    """

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions
        self.shape: tuple[int, ...] = ()

    def before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *others = inputs
        self.shape = tuple(x.shape[:-1])
        return x.reshape(-1, x.shape[-1]).index_select(0, self.positions)[None], *others

    def after(self, _: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        # Zeros, because the residual connection adds this to hidden states of the full shape.
        # One row more takes the repeated positions' outputs and is cut off again.
        tokens = prod(self.shape)
        full = out.new_zeros(tokens + 1, out.shape[-1])
        rows = _first_or(self.positions, tokens)
        return full.index_copy(0, rows, out[0])[:tokens].view(*self.shape, -1)


def _first_or(positions: Tensor, tokens: int) -> Tensor:
    """`positions` [n] below `tokens`, with all but the first of equal ones set to `tokens`."""
    order = torch.arange(len(positions), device=positions.device)
    first = order.new_full((tokens,), len(order)).scatter_reduce(0, positions, order, "amin")
    return torch.where(first[positions] == order, positions, tokens)
