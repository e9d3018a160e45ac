"""Self-attention layers over packed batches as one autograd function.

Queries, keys, values, RoPE, attention and the output projection of a Llama layer, where all four
projections have plain LoRA adapters and attention is compiled. The kernels are those of the
separate functions, in the same order, so the results are the same to the last bit; Python's share
is a third. Which attention modules compute this formula is tried once, with simple functions in
place of projections and attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prooftune.engine.attention import shared_prefix
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.autograd import SavedTensors
from prooftune.engine.fused.lora import FusedLoraGroup
from prooftune.engine.kernels import attention, pointwise
from prooftune.engine.kernels.lora_linear import LoraLinears

PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("o_proj",))
"""Children of an attention module, by their input."""


@dataclass(frozen=True, slots=True)
class AttentionFormula:
    """What an attention module gives to the attention function.

    Attributes:
        scaling: factor of the scores.
        window: positions that a sliding-window layer attends to. None: all.
    """

    scaling: float
    window: int | None


@dataclass(frozen=True, slots=True)
class _Settings:
    formula: AttentionFormula
    layout: PackedLayout
    size: int
    scaling: tuple[float, float]  # of the adapters on x, and of those of the output projection


class _Context(SavedTensors, Protocol):
    settings: _Settings
    layout: Any


class _PackedSelfAttention(torch.autograd.Function):
    """Self-attention of x [tokens, in] with cos and sin [..., tokens, size] of RoPE.

    The weights are W of queries, keys and values, their A, their B, then W, A and B of the output
    projection. Returns [tokens, out].
    """

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, cos: Tensor, sin: Tensor, settings: _Settings, *weights: Tensor
    ) -> Tensor:
        hidden, projected = _query_key_value(x, weights, settings).forward()
        inputs = _split_heads(projected, settings.size)
        formula = settings.formula
        attended, logsumexp, ctx.layout = attention.compiled_forward(
            inputs, (cos, sin), settings.layout, formula.scaling, formula.window
        )
        out_hidden, (out,) = _output(attended, weights, settings).forward()
        ctx.settings = settings
        # The angles are saved because the C code's layout holds their addresses only.
        ctx.save_for_backward(
            x, hidden, *inputs, attended, logsumexp, out_hidden, cos, sin, *weights
        )
        return out

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        settings, saved = ctx.settings, ctx.saved_tensors
        (x, hidden, q, k, v, attended, logsumexp, out_hidden), weights = saved[:8], saved[10:]
        _, grad_attended, grad_out_a, grad_out_b = _output(attended, weights, settings).backward(
            out_hidden, grads
        )
        assert grad_attended is not None
        input_grads = attention.compiled_backward(
            (q, k, v), attended, logsumexp, grad_attended.view(attended.shape), ctx.layout
        )
        _, grad_x, grad_a, grad_b = _query_key_value(x, weights, settings).backward(
            hidden,
            [grad.view(x.shape[0], -1) for grad in input_grads],
            with_grad_x=ctx.needs_input_grad[0],
        )
        # In the order of the arguments of `forward`; W are frozen.
        nones = [None] * 3
        return grad_x, *nones, *nones, *grad_a, *grad_b, None, *grad_out_a, *grad_out_b


def _query_key_value(x: Tensor, weights: Sequence[Tensor], settings: _Settings) -> LoraLinears:
    return LoraLinears(x, weights[0:3], weights[3:6], weights[6:9], settings.scaling[0])


def _output(attended: Tensor, weights: Sequence[Tensor], settings: _Settings) -> LoraLinears:
    rows = attended.view(attended.shape[0], -1)
    return LoraLinears(rows, weights[9:10], weights[10:11], weights[11:12], settings.scaling[1])


def _split_heads(projected: Sequence[Tensor], size: int) -> list[Tensor]:
    return [t.view(t.shape[0], -1, size) for t in projected]


def packed_attention_forward(
    module: nn.Module, groups: Sequence[FusedLoraGroup]
) -> Callable[..., Any] | None:
    """The replacement for the forward of an attention module; None if its formula is another.

    Args:
        module: the attention module.
        groups: the groups of its LoRA layers, queries, keys and values first.
    """
    if [len(group.layers) for group in groups] != [3, 1]:
        return None
    formula = find_formula(module)
    if formula is None:
        return None
    original, (projections, output) = type(module).forward, groups
    config: Any = module.config
    size = int(module.head_dim)  # type: ignore[arg-type]

    def forward(hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        layout, x = options.get("attention_context"), hidden_states
        angles = options.get("position_embeddings")
        if (
            args
            or not isinstance(layout, PackedLayout)
            or angles is None
            or options.get("past_key_values") is not None
            or config._attn_implementation != shared_prefix.NAME
            or not _is_packed(x, angles, size)
            or not (projections.computes_plain_lora(x) and output.computes_plain_lora(x))
        ):
            return original(module, hidden_states, *args, **options)
        rows = x.view(-1, x.shape[-1])
        settings = _Settings(formula, layout, size, (projections.scaling(), output.scaling()))
        out: Tensor = _PackedSelfAttention.apply(  # type: ignore[no-untyped-call]
            rows, *angles, settings, *projections.weights(rows), *output.weights(rows)
        )
        return out.view(*x.shape[:-1], out.shape[-1]), None

    return forward


def _is_packed(x: Tensor, angles: tuple[Tensor, Tensor], size: int) -> bool:
    """Whether compiled attention can compute x [1, tokens, in] and its RoPE."""
    return (
        x.numel() >= pointwise.MIN_ELEMENTS  # fewer are those of a decode step
        and x.dim() == 3
        and x.shape[0] == 1
        and x.is_contiguous()
        and x.device.type == "cpu"
        and all(
            t.shape == (1, x.shape[1], size) and t.dtype == x.dtype and t.is_contiguous()
            for t in angles
        )
        and attention.is_available(size, x.dtype)
    )


def find_formula(module: nn.Module) -> AttentionFormula | None:
    """The formula of an attention module that computes what this file does; None for others.

    Its class is called with functions in place of its projections and of attention: some modules
    normalize queries and keys, rotate a part of them, cap scores, or gate the output.
    """
    try:
        formulas = {_trial(module, training) for training in (False, True)}
    # Another signature, or attributes that a copy lacks.
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
        return None
    return formulas.pop() if len(formulas) == 1 else None


class _Projection(nn.Module):
    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out
        self.received: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.received = x
        return self.out


def _trial(module: nn.Module, training: bool) -> AttentionFormula | None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    size, tokens = int(module.head_dim), 3  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    heads = [4, 2, 2]
    projected = [randn(1, tokens, n * size) for n in heads]
    attended, final, x = randn(1, tokens, heads[0], size), randn(1, tokens, 5), randn(1, tokens, 5)
    angles = randn(1, tokens, size), randn(1, tokens, size)
    layout = object()
    received: dict[str, Any] = {}

    def attend(
        _: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        received.update(options, inputs=[query, key, value])
        return attended, None

    trial: Any = copy.copy(module)
    names = [name for names in PROJECTIONS for name in names]
    stand_ins = dict(zip(names, map(_Projection, [*projected, final]), strict=True))
    if {name for name, _ in module.named_children()} != stand_ins.keys():
        return None
    trial.__dict__["_modules"] = dict(stand_ins)
    trial.training = training
    trial.config = copy.copy(module.config)
    name = f"trial-{id(trial)}"
    trial.config._attn_implementation = name
    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        out, weights = type(module).forward(
            trial,
            hidden_states=x,
            position_embeddings=angles,
            attention_mask=None,
            past_key_values=None,
            attention_context=layout,
        )
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
    expected = [t.view(1, tokens, -1, size).transpose(1, 2) for t in projected]
    rotated = [*(_rotate(t, *angles) for t in expected[:2]), expected[2]]
    same = (
        out is final
        and weights is None
        and all(stand_ins[n].received is x for n in PROJECTIONS[0])
        and (output := stand_ins["o_proj"].received) is not None
        and torch.equal(output, attended.view(1, tokens, -1))
        and all(map(torch.allclose, received.pop("inputs"), rotated))
        and received.pop("attention_context") is layout
    )
    scaling, window = received.pop("scaling"), received.pop("sliding_window", None)
    # Packed attention has no dropout, and other options are unknown.
    if not same or scaling <= 0 or received.keys() - {"dropout"}:
        return None
    return AttentionFormula(float(scaling), window)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
