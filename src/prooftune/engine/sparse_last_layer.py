"""The last layer's work, done where it is read.

Its keys and values are needed at every token, what follows its attention (the output projection and
the MLP: 84% of the layer's products in SmolLM2) only at the positions whose hidden states are read.
Elsewhere the layer's output is left wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

DENSE = {"gate_proj", "up_proj", "down_proj"}
"""Children of an MLP that gives every token one vector, and nothing else."""


@contextmanager
def compute_only_positions(body: nn.Module, places: Tensor) -> Iterator[None]:
    """Compute a forward pass's last layer for reading at `places` [n] of the tokens of all rows,
    one row after another.

    Bodies that are not built of layers with ``self_attn.o_proj`` and a dense ``mlp`` compute
    everything, and so do those whose layers are computed again in the backward pass (gradient
    checkpointing).
    """
    parts = _parts(body)
    if not parts:
        yield
        return
    # One place where none is read: products of nothing are not what every kind of layer can do.
    places = torch.unique(places) if len(places) else places.new_zeros(1)
    with ExitStack() as hooks:
        for part in parts:
            narrow = _Narrow(places)
            for hook in (
                part.register_forward_pre_hook(narrow.before),
                part.register_forward_hook(narrow.after),
            ):
                hooks.callback(hook.remove)
        yield


def _parts(body: Any) -> list[nn.Module]:
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return []
    last: Any = layers[-1]
    projection, mlp = (
        getattr(getattr(last, "self_attn", None), "o_proj", None),
        getattr(last, "mlp", None),
    )
    if not isinstance(projection, nn.Module) or not isinstance(mlp, nn.Module):
        return []
    again = body.training and getattr(last, "gradient_checkpointing", False)
    return (
        [projection, mlp]
        if {name for name, _ in mlp.named_children()} >= DENSE and not again
        else []
    )


class _Narrow:
    """Hooks that let a module see some of the vectors it is called with; what it would give for the
    others is zero."""

    def __init__(self, places: Tensor) -> None:
        self.places = places
        self.shape: tuple[int, ...] = ()

    def before(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *others = inputs
        self.shape = tuple(x.shape[:-1])
        return x.reshape(-1, x.shape[-1]).index_select(0, self.places)[None], *others

    def after(self, _: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        whole = out.new_zeros(prod(self.shape), out.shape[-1])
        return whole.index_copy(0, self.places, out[0]).view(*self.shape, -1)
