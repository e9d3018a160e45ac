"""LoraLinears with LoRA adapters: those that read the same input are computed together, in few passes
over their arrays.

The first products (A) of the adapters of queries, keys and values, or of gate and up, are one; the
second (B) are added to the frozen layers' in place, and so are the gradients of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.fused.prepacked_weights import PrepackedWeight, used
from prooftune.engine.kernels import int8_linear
from prooftune.engine.kernels.int8_linear import QuantizedFrozenLinear
from prooftune.engine.kernels.lora_linear import LoraLinears


def computes_in(dtype: torch.dtype, device: str) -> bool:
    """Whether a product of this dtype is computed in it: under autocast to another it is not."""
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == dtype


class _AdaptedLinears(torch.autograd.Function):
    """x Wᵀ + s (x Aᵀ) Bᵀ (LoRA, arXiv 2106.09685) for several frozen W on one x.

    x [n, in]; every W [out, in], A [r, in], B [out, r], W in the dtype of x; returns an array [n,
    out] for each W. `kept` has what computes the products with each W where nothing is learned;
    None for plain products. `int8` computes all W's where that is to be done in 8 bits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scaling: float,
        kept: Sequence[PrepackedWeight | None],
        int8: QuantizedFrozenLinear | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        layers = LoraLinears(x, *_thirds(weights), scaling)
        kept_one = any(kept)
        low, outs = layers.forward(wide=not int8 and not kept_one)
        ctx.scaling, ctx.int8 = scaling, int8
        ctx.save_for_backward(x, low, *weights)
        if int8:
            return int8.products(x, layers.parts(low), [one.to(x.dtype) for one in layers.up])
        if kept_one:
            return tuple(
                (one.product(x, w) if one else x @ w.T).addmm_(part, b.to(x.dtype).T)
                for one, w, part, b in zip(
                    kept, layers.frozen, layers.parts(low), layers.up, strict=True
                )
            )
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, *weights = ctx.saved_tensors
        layers = LoraLinears(x, *_thirds(weights), ctx.scaling)
        of_low, of_x, of_down, of_up = layers.backward(
            low, grads, wide=ctx.needs_input_grad[0] and not ctx.int8
        )
        if ctx.needs_input_grad[0] and ctx.int8:
            of_x = ctx.int8.gradient(
                grads, of_low, torch.cat([one.to(x.dtype) for one in layers.down])
            )
        return of_x, None, None, None, *[None] * len(grads), *of_down, *of_up


def _thirds(
    weights: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    n = len(weights) // 3
    return tuple(weights[:n]), tuple(weights[n : 2 * n]), tuple(weights[2 * n :])


class Group:
    """Adapted layers that are called one after another on the same input."""

    def __init__(self, layers: Sequence[Any], kept: Mapping[nn.Linear, PrepackedWeight]) -> None:
        self.layers = list(layers)
        self._kept = [kept.get(layer.base_layer) for layer in layers]
        self._of: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}
        self._plain: dict[Hashable, bool] = {}

    def forward_of(self, layer: Any) -> Callable[..., Any]:
        """What replaces the layer's forward: the first that is called computes all, the others take
        what is theirs."""
        own = type(layer).forward

        def forward(x: Tensor, *args: Any, **options: Any) -> Any:
            if x is self._of and id(layer) in self._waiting:
                return self._taken(layer)
            self._of, self._waiting = None, {}
            if args or options or not self._fits(x):
                return own(layer, x, *args, **options)
            self._of, self._waiting = (
                x,
                dict(zip(map(id, self.layers), self._computed(x), strict=True)),
            )
            return self._taken(layer)

        return forward

    def _taken(self, layer: Any) -> Tensor:
        out = self._waiting.pop(id(layer))
        if not self._waiting:
            self._of = None
        return out

    def _computed(self, x: Tensor) -> list[Tensor]:
        names = [layer.active_adapters[0] for layer in self.layers]
        pairs = list(zip(self.layers, names, strict=True))
        weights = [layer.base_layer.weight for layer in self.layers]
        rows, learns = x.reshape(-1, x.shape[-1]), all(layer.training for layer in self.layers)
        outs = _AdaptedLinears.apply(  # type: ignore[no-untyped-call]
            rows,
            self.layers[0].scaling[names[0]],
            self._kept if used() else [None] * len(names),
            int8_linear.frozen(weights, [layer.r[name] for layer, name in pairs], rows)
            if learns
            else None,
            *weights,
            *(layer.lora_A[name].weight for layer, name in pairs),
            *(layer.lora_B[name].weight for layer, name in pairs),
        )
        return [out.view(*x.shape[:-1], out.shape[-1]) for out in outs]

    def _fits(self, x: Tensor) -> bool:
        # What a layer is made of takes longer to look through than its products take for a short
        # row; this is what changes.
        state = (
            x.dtype,
            x.device.type,
            *(
                (
                    layer.disable_adapters,
                    layer.merged,
                    layer.training,
                    *layer.active_adapters,
                    *layer.scaling.values(),
                    layer.base_layer.weight.requires_grad,
                )
                for layer in self.layers
            ),
        )
        if state not in self._plain:
            self._plain[state] = (
                all(_is_plain(layer, x) for layer in self.layers)
                and len({layer.scaling[layer.active_adapters[0]] for layer in self.layers}) == 1
            )
        return self._plain[state] and computes_in(x.dtype, x.device.type)


def _is_plain(layer: Any, x: Tensor) -> bool:
    """Whether the layer is a frozen product with one adapter and nothing else."""
    base = layer.base_layer
    if (
        type(base) is not nn.Linear
        or base.bias is not None
        or base.weight.requires_grad
        or base.weight.dtype != x.dtype
    ):
        return False
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training)
    )
