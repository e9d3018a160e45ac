"""LoraLinears whose work beside the matrix products is done in few passes, forward and backward.

On a processor a small model spends a third of its time on reading and writing arrays between two
matrix products. Here layers with adapters that read the same input are computed together
(`adapted_layers`); a gated MLP keeps the two arrays that its gradient needs and no others; a root
mean square norm keeps no array of its own (`pointwise`); queries and keys are turned in place
(`rotary`); where nothing is learned, weights are laid out once (`laid_out_weights`). The arithmetic
is the same but for fewer roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prooftune.engine.fused.lora import Group, computes_in
from prooftune.engine.fused.prepacked_weights import PrepackedWeight, fits, prepack_weights, used
from prooftune.engine.fused.rope import patch_rope_inplace
from prooftune.engine.kernels import pointwise

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that are called on the same input."""


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Use the layers of this module for a while, wherever they compute what the model's own do.

    A layer that turns out otherwise when it is called (quantised weights, several adapters,
    dropout, DoRA, a merged or disabled adapter, a bias, another dtype) is computed by its own code.
    """
    if model not in _KNOWN or not all(map(fits, _KNOWN[model].kept)):
        _KNOWN[model] = PatchedModules(model)
    known = _KNOWN[model]
    replaced = [
        (vars(module), forward)
        for module, forward in known.forwards
        if "forward" not in vars(module)
    ]
    for layer, kept in known.kept.items():
        kept.compare(layer.weight)
    for attributes, forward in replaced:
        attributes["forward"] = forward
    try:
        with patch_rope_inplace(model):
            yield
    finally:
        for attributes, _ in replaced:
            del attributes["forward"]


class PatchedModules:
    """What is replaced in a model, found once: to look through its modules takes longer than a
    short answer.

    Attributes:
        kept: layers whose weights are laid out, and what is kept of them.
        forwards: modules and their other forward.
    """

    def __init__(self, model: nn.Module) -> None:
        self.kept = prepack_weights(model)
        self.forwards = list(_replacements(model, self.kept))


_KNOWN: WeakKeyDictionary[nn.Module, PatchedModules] = WeakKeyDictionary()


def _replacements(
    model: nn.Module, kept: Mapping[nn.Linear, PrepackedWeight]
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    from peft.tuners.lora.layer import Linear as LoraLinear

    norms: dict[tuple[type, int, torch.dtype], bool] = {}
    for module in model.modules():
        children = dict(module.named_children())
        adapted = {name: child for name, child in children.items() if isinstance(child, LoraLinear)}
        for names in (
            *SAME_INPUT,
            *((name,) for name in adapted if not any(name in names for names in SAME_INPUT)),
        ):
            group = Group([adapted[name] for name in names if name in adapted], kept)
            yield from ((layer, group.forward_of(layer)) for layer in group.layers)
        if not isinstance(
            module, LoraLinear
        ):  # whose own layer is computed with its adapter, or by its own code
            yield from (
                (child, _linear(child, kept[child]))
                for child in children.values()
                if isinstance(child, nn.Linear) and child in kept
            )
        if {"gate_proj", "up_proj", "down_proj"} <= set(children) and isinstance(
            children.get("act_fn"), _silus()
        ):
            yield module, _gated(module)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and hasattr(module, "variance_epsilon"):
            kind = (type(module), weight.numel(), weight.dtype)
            if kind not in norms:
                norms[kind] = _is_norm(module)
            if norms[kind]:
                yield module, _norm(module)


def _linear(layer: nn.Linear, kept: PrepackedWeight) -> Callable[..., Any]:
    own = type(layer).forward

    def forward(x: Tensor) -> Tensor:
        weight = layer.weight
        if not used() or x.dtype != weight.dtype or not computes_in(x.dtype, x.device.type):
            return own(layer, x)
        return kept.product(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))

    return forward


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return pointwise.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return pointwise.swiglu_backward(gate, up, grads[0])


def _gated(layer: Any) -> Callable[..., Any]:
    own = type(layer).forward

    def forward(x: Tensor) -> Any:
        gate, up = layer.gate_proj(x), layer.up_proj(x)
        if gate.dtype != up.dtype:
            return own(layer, x)
        return layer.down_proj(_Gated.apply(gate, up))  # type: ignore[no-untyped-call]

    return forward


def _silus() -> tuple[type, ...]:
    from transformers.activations import ACT2CLS

    found = ACT2CLS["silu"]
    return nn.SiLU, found[0] if isinstance(found, tuple) else found


class _RootMeanSquare(torch.autograd.Function):
    """A root mean square norm for a frozen weight [d]; x [n, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, inverse = pointwise.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, inverse, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        return pointwise.rms_norm_backward(x, weight, inverse, grads[0].contiguous()), None, None


def _norm(layer: Any) -> Callable[..., Any]:
    own = type(layer).forward

    def forward(x: Tensor) -> Any:
        learns = layer.weight.requires_grad and torch.is_grad_enabled()
        return (
            own(layer, x)
            if learns or x.dtype != layer.weight.dtype
            else _normed(x, layer.weight, layer.variance_epsilon)
        )

    return forward


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.device.type != "cpu":  # where the library's own kernel is one pass both ways
        return nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
    out: Tensor = _RootMeanSquare.apply(x.reshape(-1, x.shape[-1]), weight, eps)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def _is_norm(module: Any) -> bool:
    """Whether the module computes on a few vectors what `_RootMeanSquare` does, and its gradient."""
    weight = module.weight.detach()
    values = torch.linspace(-2, 3, 4 * weight.numel(), device=weight.device).sin().view(4, -1)
    found = []
    for forward in (module.forward, lambda x: _normed(x, weight, module.variance_epsilon)):
        x = values.to(weight.dtype).requires_grad_()
        with torch.enable_grad():
            try:
                out = forward(x)
                found.append(
                    (
                        out.float(),
                        torch.autograd.grad((out.float() * values.flip(-1)).sum(), x)[0].float(),
                    )
                )
            except (
                RuntimeError,
                AttributeError,
            ):  # no such kernel for this dtype, here or in this release
                return False
    return all(bool((a - b).norm() <= 0.02 * b.norm()) for a, b in zip(*found, strict=True))
