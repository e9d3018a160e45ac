"""Fused LoRA layers: layers that read the same input are computed together.

The A matmuls of the adapters of queries, keys and values, or of gate and up, become one; the B
matmuls are added to the frozen layers' outputs in place, and so are the gradients of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from prooftune.engine.autograd import SavedTensors
from prooftune.engine.fused.prepacked_weights import PrepackedWeight, prepacking_enabled
from prooftune.engine.fused.quantized_weights import BitsAndBytesLinears, is_quantized
from prooftune.engine.kernels import int8_linear
from prooftune.engine.kernels.lora_linear import LoraLinears, can_compile, pad_ranks
from prooftune.engine.model_parts import has_hooks


def computes_in(dtype: torch.dtype, device: str) -> bool:
    """Whether a matmul of this dtype is computed in it; autocast to another dtype changes that."""
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == dtype


class LoraLayer(Protocol):
    """A linear layer with LoRA adapters: `peft.tuners.lora.layer.Linear` or one of `bnb`."""

    base_layer: nn.Linear
    active_adapters: list[str]
    disable_adapters: bool
    merged: bool
    training: bool
    r: dict[str, int]
    scaling: dict[str, float]
    lora_A: Mapping[str, nn.Linear]  # noqa: N815
    lora_B: Mapping[str, nn.Linear]  # noqa: N815
    lora_dropout: Mapping[str, nn.Module]
    lora_variant: Mapping[str, object]

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """peft's own computation."""


class FrozenLinears(Protocol):
    """Frozen layers on one input, computed in another way than by 16 or 32-bit matmuls."""

    def forward(
        self, x: Tensor, lora_hiddens: Sequence[Tensor], lora_b: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """x Wᵀ + lora_hidden Bᵀ for every layer."""

    def backward(self, grads: Sequence[Tensor], grad_hidden: Tensor, lora_a: Tensor) -> Tensor:
        """The gradient of x."""


class _Context(SavedTensors, Protocol):
    scaling: float
    frozen: FrozenLinears | None


class _FusedLoraLinears(torch.autograd.Function):
    """x Wᵀ + s (x Aᵀ) Bᵀ (LoRA, arXiv 2106.09685) for several frozen W on one x.

    x is [n, in]; every W [out, in], A [r, in] and B [out, r], with W in the dtype of x; returns
    [n, out] for each W. `prepacked` computes the matmuls with each W in inference; None for
    ordinary matmuls. `frozen` computes all of them where W are quantized, or in int8 training.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        scaling: float,
        prepacked: Sequence[PrepackedWeight | None],
        frozen: FrozenLinears | None,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        # Weights come as one flat sequence because autograd tracks tensor arguments only.
        layers = LoraLinears(x, *_thirds(weights), scaling)
        any_prepacked = any(prepacked)
        hidden, outs = layers.forward(with_outputs=not frozen and not any_prepacked)
        ctx.scaling, ctx.frozen = scaling, frozen
        ctx.save_for_backward(x, hidden, *weights)
        if frozen:
            return frozen.forward(
                x, layers.split_hidden(hidden), [b.to(x.dtype) for b in layers.lora_b]
            )
        if any_prepacked:
            return tuple(
                (packed.matmul(x, w) if packed else x @ w.T).addmm_(part, b.to(x.dtype).T)
                for packed, w, part, b in zip(
                    prepacked,
                    layers.weights,
                    layers.split_hidden(hidden),
                    layers.lora_b,
                    strict=True,
                )
            )
        return outs

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, *weights = ctx.saved_tensors
        layers = LoraLinears(x, *_thirds(weights), ctx.scaling)
        grad_hidden, grad_x, grad_a, grad_b = layers.backward(
            hidden, grads, with_grad_x=ctx.needs_input_grad[0] and not ctx.frozen
        )
        if ctx.needs_input_grad[0] and ctx.frozen:
            grad_x = ctx.frozen.backward(
                grads, grad_hidden, torch.cat([a.to(x.dtype) for a in layers.lora_a])
            )
        # In the order of the arguments of `forward`; W are frozen.
        return grad_x, None, None, None, *[None] * len(grads), *grad_a, *grad_b


def _thirds(
    weights: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Split all W, all A, all B."""
    n = len(weights) // 3
    return tuple(weights[:n]), tuple(weights[n : 2 * n]), tuple(weights[2 * n :])


class FusedLoraGroup:
    """LoRA layers that a module calls one after another on the same input.

    The first one called computes all; the others return the results that are waiting for them.

    Attributes:
        layers: the layers.
        forwards: the replacement for the forward of each.
    """

    def __init__(
        self, layers: Sequence[LoraLayer], prepacked: Mapping[nn.Linear, PrepackedWeight]
    ) -> None:
        self.layers = list(layers)
        self._prepacked = [prepacked.get(layer.base_layer) for layer in layers]
        bases = [layer.base_layer for layer in layers]
        self._frozen = [base.weight for base in bases]
        self._quantized = BitsAndBytesLinears(bases) if any(map(is_quantized, bases)) else None
        self._input: Tensor | None = None
        self._pending: dict[int, Tensor] = {}
        self._supported: dict[Hashable, bool] = {}
        self._adapters: dict[Hashable, tuple[list[Tensor], list[Tensor]]] = {}
        self.forwards = [self._forward_of(layer) for layer in self.layers]

    def _forward_of(self, layer: LoraLayer) -> Callable[..., Any]:
        # The class's function and not the instance's attribute, which may be a replacement already.
        original = type(layer).forward

        def forward(x: Tensor, *args: Any, **options: Any) -> Any:
            # Identity and not equality: the same tensor object, so comparing costs nothing.
            if x is self._input and id(layer) in self._pending:
                return self._take(layer)
            # Outputs that were not fetched belong to an earlier input.
            self._input, self._pending = None, {}
            if args or options or not self._is_supported(x):
                return original(layer, x, *args, **options)
            self._input, self._pending = (
                x,
                dict(zip(map(id, self.layers), self._compute(x), strict=True)),
            )
            return self._take(layer)

        return forward

    def _take(self, layer: LoraLayer) -> Tensor:
        out = self._pending.pop(id(layer))
        # Drop the reference to the input, so that its memory can be freed before the next layer.
        if not self._pending:
            self._input = None
        return out

    def _compute(self, x: Tensor) -> list[Tensor]:
        # Matmuls over all tokens at once, whatever the batch's shape.
        rows, n = x.reshape(-1, x.shape[-1]), len(self.layers)
        weights = self.weights(rows)
        outs = _FusedLoraLinears.apply(  # type: ignore[no-untyped-call]
            rows,
            self.scaling(),
            self._prepacked if prepacking_enabled() else [None] * n,
            self._quantized or self._int8_linear(rows, weights),
            *weights,
        )
        return [out.view(*x.shape[:-1], out.shape[-1]) for out in outs]

    def _int8_linear(self, rows: Tensor, weights: Sequence[Tensor]) -> FrozenLinears | None:
        if not all(layer.training for layer in self.layers):
            return None
        frozen, lora_a, _ = _thirds(weights)
        return int8_linear.get_quantized(frozen, [a.shape[0] for a in lora_a], rows)

    def weights(self, rows: Tensor) -> list[Tensor]:
        """W of every layer, then every A, then every B, for a product with rows [n, in].

        A and B are padded to ranks of the compiled kernel, where it computes them.
        """
        # Modules find a parameter by its name slowly, so they are asked once for every adapter.
        names = tuple([layer.active_adapters[0] for layer in self.layers])
        if names not in self._adapters:
            pairs = [*zip(self.layers, names, strict=True)]
            self._adapters[names] = (
                [layer.lora_A[name].weight for layer, name in pairs],
                [layer.lora_B[name].weight for layer, name in pairs],
            )
        lora_a, lora_b = self._adapters[names]
        if can_compile(rows, self._frozen):
            lora_a, lora_b = pad_ranks(lora_a, lora_b)
        return [*self._frozen, *lora_a, *lora_b]

    def scaling(self) -> float:
        """The factor of all adapters."""
        layer = self.layers[0]
        return layer.scaling[layer.active_adapters[0]]

    def computes_plain_lora(self, x: Tensor) -> bool:
        """Whether the layers compute x Wᵀ + s (x Aᵀ) Bᵀ on x and nothing else.

        Not so with quantized or prepacked weights, int8 training, or hooks on a layer.
        """
        return (
            not self._quantized
            and not (prepacking_enabled() and any(self._prepacked))
            and not int8_linear.is_used()
            and all(
                vars(layer).get("forward") is forward and not has_hooks(cast(nn.Module, layer))
                for layer, forward in zip(self.layers, self.forwards, strict=True)
            )
            and self._is_supported(x)
        )

    def _is_supported(self, x: Tensor) -> bool:
        # Inspecting the layers takes longer than their matmuls for a short row, so the result is
        # cached by everything that can change.
        items: list[Hashable] = [x.dtype, x.device.type]
        for layer, weight in zip(self.layers, self._frozen, strict=True):
            items += [layer.disable_adapters, layer.merged, layer.training, weight.requires_grad]
            items += layer.active_adapters
            items += layer.scaling.values()
        state = tuple(items)
        if state not in self._supported:
            self._supported[state] = (
                all(_is_plain_lora(layer, x) for layer in self.layers)
                # The A matmuls are one, so they share one factor.
                and len({layer.scaling[layer.active_adapters[0]] for layer in self.layers}) == 1
            )
        return self._supported[state] and computes_in(x.dtype, x.device.type)


def _is_plain_lora(layer: LoraLayer, x: Tensor) -> bool:
    """Whether the layer is a frozen linear with one plain LoRA adapter and nothing else."""
    base = layer.base_layer
    if base.bias is not None or base.weight.requires_grad:
        return False
    # Quantized layers take and give any dtype.
    if not is_quantized(base) and (type(base) is not nn.Linear or base.weight.dtype != x.dtype):
        return False
    # Merged or disabled adapters are in the weights already, or must not be added.
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return (
        # `lora_variant` holds DoRA and others, which compute another formula.
        name in layer.lora_A
        and name not in layer.lora_variant
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training)
    )
