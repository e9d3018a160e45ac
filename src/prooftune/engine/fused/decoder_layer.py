"""Decoder layers whose residual additions run in the passes of the norms that follow them.

In Llama and its relatives, every addition to the residual stream is followed by an RMSNorm, within
the layer or at the start of the next one:

    y = x + attention(norm(x))      z = y + mlp(norm(y))

Forward, a sum and its norm are one pass. Backward, the gradient that reaches a sum on its way past
the norm is added in the pass of the norm's gradient. Every result is the same to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from prooftune.engine.autograd import SavedTensors
from prooftune.engine.fused.rms_norm import Norm, has_frozen_weight
from prooftune.engine.kernels import pointwise
from prooftune.engine.model_parts import has_hooks
from prooftune.engine.sparse_last_layer import DENSE_MLP

CHILDREN = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""Children of a layer of the known structure, in the order of their calls."""

OPTIONS = {
    "attention_mask",
    "position_ids",
    "past_key_values",
    "use_cache",
    "position_embeddings",
}
"""Arguments that models give to their layers, which pass them to their attention."""

Forwards = Mapping[nn.Module, Callable[..., Any]]


class _DecoderLayer(Protocol):
    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module


class _Context(SavedTensors, Protocol):
    def set_materialize_grads(self, value: bool) -> None: ...


class _AddNorm(torch.autograd.Function):
    """x + y, and its RMSNorm with a frozen weight [d]; x and y are [..., d]."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, y: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        d = x.shape[-1]
        total, normed, inverse_rms = pointwise.add_rms_norm(
            x.view(-1, d), y.view(-1, d), weight, eps
        )
        ctx.set_materialize_grads(False)
        total = total.view(x.shape)
        ctx.save_for_backward(total, inverse_rms, weight)
        return total, normed.view(x.shape)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, inverse_rms, weight = ctx.saved_tensors
        grad_total, grad_normed = (None if g is None else g.contiguous() for g in grads)
        if grad_normed is None:
            return grad_total, grad_total, None, None
        d = total.shape[-1]
        grad = pointwise.rms_norm_backward(
            total.view(-1, d),
            weight,
            inverse_rms,
            grad_normed.view(-1, d),
            None if grad_total is None else grad_total.view(-1, d),
        ).view(total.shape)
        return grad, grad, None, None


class _NextNorm:
    """What a layer has computed for the next one: its input, and the norm of that."""

    def __init__(self) -> None:
        self._computed: tuple[Tensor, int, Tensor] | None = None

    def put(self, x: Tensor, normed: Tensor) -> None:
        self._computed = x, x._version, normed

    def take(self, x: Tensor) -> Tensor | None:
        """The norm of x, if x is what the layer before returned, unchanged by hooks."""
        computed, self._computed = self._computed, None
        if computed is None or computed[0] is not x or computed[1] != x._version:
            return None
        return computed[2]


def decoder_layer_forwards(
    model: nn.Module, norms: Forwards
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """The decoder layers of the known structure, and the replacement for the forward of each.

    Args:
        model: searched for lists of layers.
        norms: its RMSNorms, and the replacements for their forwards.
    """
    for module in model.modules():
        if not isinstance(module, nn.ModuleList):
            continue
        layers = [
            cast(_DecoderLayer, layer) if _is_known(layer, norms) else None for layer in module
        ]
        next_norm = _NextNorm()
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if layer is not None:
                norm = following.input_layernorm if following is not None else None
                yield cast(nn.Module, layer), _layer_forward(layer, norm, next_norm, norms)


def _layer_forward(
    layer: _DecoderLayer, following: nn.Module | None, next_norm: _NextNorm, norms: Forwards
) -> Callable[..., Any]:
    original = type(layer).forward  # type: ignore[attr-defined]
    own_norms = [layer.input_layernorm, layer.post_attention_layernorm]
    own_norms += [following] if following is not None else []

    def forward(hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        x = hidden_states
        normed = next_norm.take(x)
        if (
            args
            or not options.keys() >= OPTIONS
            # Few tokens: the kernel would not be used.
            or x.numel() < pointwise.MIN_ELEMENTS
            or x.device.type != "cpu"
            # Without the version by which changes in place are recognised.
            or torch.is_inference_mode_enabled()
            or not pointwise.is_available(x.dtype)
            # A checkpointed layer is computed by the function that transformers has wrapped.
            or getattr(layer, "gradient_checkpointing", False)
            or not all(_is_replaced(norm, norms, x) for norm in own_norms)
        ):
            return original(layer, x, *args, **options)
        if normed is None:
            normed = layer.input_layernorm(x)
        y, normed = _add_norm(
            x, layer.self_attn(hidden_states=normed, **options)[0], layer.post_attention_layernorm
        )
        out = layer.mlp(normed)
        if following is None:
            return y + out
        z, normed = _add_norm(y, out, following)
        next_norm.put(z, normed)
        return z

    return forward


def _is_replaced(norm: nn.Module, norms: Forwards, x: Tensor) -> bool:
    """Whether a norm of x is computed by our code alone, so that calling it can be left out."""
    return (
        vars(norm).get("forward") is norms[norm]
        and not has_hooks(norm)
        and has_frozen_weight(cast(Norm, norm), x)
    )


def _add_norm(x: Tensor, y: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """x + y, and its norm."""
    if x.dtype != y.dtype or x.shape != y.shape or not (x.is_contiguous() and y.is_contiguous()):
        total = x + y
        return total, norm(total)
    both: tuple[Tensor, Tensor] = _AddNorm.apply(  # type: ignore[no-untyped-call]
        x, y, norm.weight, norm.variance_epsilon
    )
    return both


def _is_known(layer: nn.Module, norms: Forwards) -> bool:
    children = dict(layer.named_children())
    return (
        sorted(children) == sorted(CHILDREN)
        and all(children[name] in norms for name in CHILDREN[::2])
        # A mixture of experts may return more than one tensor.
        and {name for name, _ in children["mlp"].named_children()} >= DENSE_MLP
        and all(_computes_known_formula(layer, training) for training in (False, True))
    )


class _StandIn(nn.Module):
    """A function in place of a layer's child."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


def _computes_known_formula(layer: nn.Module, training: bool) -> bool:
    """Whether a layer gives what `_layer_forward` does, with simple functions as its children.

    Some layers scale or drop residuals, or give their attention other arguments.
    """
    options = {name: object() for name in (*OPTIONS, "attention_context")}
    received: dict[str, Any] = {}

    def attention(hidden_states: Tensor, **others: Any) -> tuple[Tensor, None]:
        received.update(others)
        return hidden_states.cos() * 3, None

    functions: tuple[Callable[..., Any], ...] = (torch.sin, attention, torch.tanh, torch.exp)
    # A copy with stand-in children: hooks on the layer and on its own children are not called.
    trial = copy.copy(layer)
    trial.__dict__["_modules"] = {
        name: _StandIn(function) for name, function in zip(CHILDREN, functions, strict=True)
    }
    trial.training = training
    trial.gradient_checkpointing = False  # type: ignore[assignment]
    x = torch.linspace(-2, 3, 12, dtype=torch.float64).view(1, 3, 4)
    y = x + x.sin().cos() * 3
    try:
        actual = type(layer).forward(trial, x, **options)
        same = isinstance(actual, Tensor) and torch.equal(actual, y + y.tanh().exp())
    # Another signature, attributes that a copy lacks, or tensors without values.
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return False
    return (
        same
        and received.keys() == options.keys()
        and all(received[name] is value for name, value in options.items())
    )
