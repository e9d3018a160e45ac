"""Layers whose work beside the matrix products is done in few passes, forward and backward.

On a processor a small model spends a third of its time on reading and writing arrays between two matrix products. Here
the adapters of layers that read the same input (queries, keys and values; gate and up) are one product, which the frozen
layers' products then add to themselves, and so are the gradients of that input; a gated MLP keeps the two arrays that its
gradient needs and no others; a root mean square norm keeps no array of its own; queries and keys are turned in place (`rotary`).
The arithmetic is the same but for fewer roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prooftune.engine.rotary import turned_in_place

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that are called on the same input."""


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Use the layers of this module for a while, wherever they compute what the model's own do.

    A layer that turns out otherwise when it is called (quantised weights, several adapters, dropout, DoRA, a merged or
    disabled adapter, a bias, another dtype) is computed by its own code.
    """
    if model not in _KNOWN:
        _KNOWN[model] = list(_replacements(model))
    replaced = [(vars(module), forward) for module, forward in _KNOWN[model] if "forward" not in vars(module)]
    for attributes, forward in replaced:
        attributes["forward"] = forward
    try:
        with turned_in_place(model):
            yield
    finally:
        for attributes, _ in replaced:
            del attributes["forward"]


_KNOWN: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, Callable[..., Any]]]] = WeakKeyDictionary()
"""What was found to replace in a model: to look through its modules takes longer than a short answer."""


def _replacements(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    from peft.tuners.lora.layer import Linear as LoraLinear

    norms: dict[tuple[type, int, torch.dtype], bool] = {}
    for module in model.modules():
        children = dict(module.named_children())
        adapted = {name: child for name, child in children.items() if isinstance(child, LoraLinear)}
        for names in (*SAME_INPUT, *((name,) for name in adapted if not any(name in names for names in SAME_INPUT))):
            group = _Group([adapted[name] for name in names if name in adapted])
            yield from ((layer, group.forward_of(layer)) for layer in group.layers)
        if {"gate_proj", "up_proj", "down_proj"} <= set(children) and isinstance(children.get("act_fn"), _silus()):
            yield module, _gated(module)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and hasattr(module, "variance_epsilon"):
            kind = (type(module), weight.numel(), weight.dtype)
            if kind not in norms:
                norms[kind] = _is_norm(module)
            if norms[kind]:
                yield module, _norm(module)


class _AdaptedLinears(torch.autograd.Function):
    """x Wᵀ + s (x Aᵀ) Bᵀ (LoRA, arXiv 2106.09685) for several frozen W on one x.

    x [n, in]; every W [out, in], A [r, in], B [out, r], W in the dtype of x; returns an array [n, out] for each W.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scaling: float, *weights: Tensor) -> tuple[Tensor, ...]:
        frozen, down, up = _thirds(weights)
        shared = torch.cat([one.to(x.dtype) for one in down])
        up = tuple(one.to(x.dtype) for one in up)
        low = (x @ shared.T).mul_(scaling)
        ctx.scaling, ctx.ranks = scaling, [len(one) for one in down]
        ctx.save_for_backward(x, shared, low, *frozen, *up)
        lows = torch.split(low, ctx.ranks, dim=1)
        return tuple((x @ w.T).addmm_(part, b.T) for w, b, part in zip(frozen, up, lows, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shared, low, *rest = ctx.saved_tensors
        frozen, up = rest[: len(grads)], rest[len(grads) :]
        lows = torch.split(low, ctx.ranks, dim=1)
        of_low = torch.cat([grad @ b for grad, b in zip(grads, up, strict=True)], dim=1).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grads[0] @ frozen[0]
            for grad, w in zip(grads[1:], frozen[1:], strict=True):
                of_x.addmm_(grad, w)
            of_x.addmm_(of_low, shared)
        of_down = torch.split(of_low.T @ x, ctx.ranks)
        of_up = [grad.T @ part for grad, part in zip(grads, lows, strict=True)]
        return of_x, None, *[None] * len(frozen), *of_down, *of_up


def _thirds(weights: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    n = len(weights) // 3
    return tuple(weights[:n]), tuple(weights[n : 2 * n]), tuple(weights[2 * n :])


class _Group:
    """Adapted layers that are called one after another on the same input."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        self._of: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}
        self._plain: dict[Hashable, bool] = {}

    def forward_of(self, layer: Any) -> Callable[..., Any]:
        """What replaces the layer's forward: the first that is called computes all, the others take what is theirs."""
        own = type(layer).forward

        def forward(x: Tensor, *args: Any, **options: Any) -> Any:
            if x is self._of and id(layer) in self._waiting:
                return self._taken(layer)
            self._of, self._waiting = None, {}
            if args or options or not self._fits(x):
                return own(layer, x, *args, **options)
            self._of, self._waiting = x, dict(zip(map(id, self.layers), self._computed(x), strict=True))
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
        outs = _AdaptedLinears.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), self.layers[0].scaling[names[0]], *(layer.base_layer.weight for layer in self.layers),
            *(layer.lora_A[name].weight for layer, name in pairs), *(layer.lora_B[name].weight for layer, name in pairs))
        return [out.view(*x.shape[:-1], out.shape[-1]) for out in outs]

    def _fits(self, x: Tensor) -> bool:
        # What a layer is made of takes longer to look through than its products take for a short row; this is what changes.
        state = (x.dtype, x.device.type, *((layer.disable_adapters, layer.merged, layer.training, *layer.active_adapters,
                                            *layer.scaling.values(), layer.base_layer.weight.requires_grad)
                                           for layer in self.layers))
        if state not in self._plain:
            self._plain[state] = all(_is_plain(layer, x) for layer in self.layers) and len(
                {layer.scaling[layer.active_adapters[0]] for layer in self.layers}) == 1
        return self._plain[state] and _computes_in(x.dtype, x.device.type)


def _is_plain(layer: Any, x: Tensor) -> bool:
    """Whether the layer is a frozen product with one adapter and nothing else."""
    base = layer.base_layer
    if type(base) is not nn.Linear or base.bias is not None or base.weight.requires_grad or base.weight.dtype != x.dtype:
        return False
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return (name in layer.lora_A and name not in layer.lora_variant and layer.lora_A[name].bias is None
            and layer.lora_B[name].bias is None
            and (isinstance(layer.lora_dropout[name], nn.Identity) or not layer.training))


def _computes_in(dtype: torch.dtype, device: str) -> bool:
    """Whether a product of this dtype is computed in it: under autocast to another it is not."""
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == dtype


class _Gated(torch.autograd.Function):
    """silu(gate) · up (SwiGLU, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = nn.functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), of_up


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
    """x / sqrt(mean x² + eps) · weight (RMSNorm, arXiv 1910.07467) for a frozen weight [d]; x [n, d].

    Its gradient is that of LayerNorm for a mean of zero, plus the part that LayerNorm takes away for the mean.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square_().div_(x.shape[-1])
        # A batch norm in use, whose channels are the tokens, of mean zero and this variance: one pass, in float32.
        out: Tensor = torch.native_batch_norm(x[None], None, None, torch.zeros_like(squares), squares, False, 0.0, eps)[0][0]
        ctx.save_for_backward(x, squares.add_(eps).rsqrt_()[:, None], weight)
        return out.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        grad, size = grads[0].contiguous(), x.shape[-1]
        wide = weight.float()
        of_x: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad, x, [size], torch.zeros_like(inverse), inverse, wide, torch.zeros_like(wide), [True, False, False])[0]
        mean = torch.mv(grad, weight).float().div_(size).mul_(inverse.view(-1))
        return of_x.add_(mean.to(x.dtype)[:, None]), None, None


def _norm(layer: Any) -> Callable[..., Any]:
    own = type(layer).forward

    def forward(x: Tensor) -> Any:
        learns = layer.weight.requires_grad and torch.is_grad_enabled()
        return own(layer, x) if learns or x.dtype != layer.weight.dtype else _normed(x, layer.weight, layer.variance_epsilon)

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
                found.append((out.float(), torch.autograd.grad((out.float() * values.flip(-1)).sum(), x)[0].float()))
            except (RuntimeError, AttributeError):  # no such kernel for this dtype, here or in this release
                return False
    return all(bool((a - b).norm() <= 0.02 * b.norm()) for a, b in zip(*found, strict=True))
