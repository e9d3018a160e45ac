"""Compiled FlashAttention over a packed batch (`attention.c`), for supported CPUs and layers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.autograd import SavedTensors
from prooftune.engine.kernels import build

HEAD_SIZES = range(32, 257, 32)
"""Head sizes that the kernel can be compiled for."""


def is_supported(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
) -> bool:
    """Whether the kernel can compute this attention here.

    Args:
        query: [tokens, query heads, size].
        key, value: [tokens, key heads, size].
        scaling: factor of the scores.
        softcap: bound of the scores.
    """
    (tokens, heads, size), shape = query.shape, key.shape
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and softcap is None
        and scaling > 0
        and shape == value.shape
        and (tokens, size) == (shape[0], shape[2])
        and heads % shape[1] == 0
        and is_available(size, query.dtype)
    )


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    scaling: float,
    window: int | None,
    angles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention over a packed batch, with gradients.

    Scores, softmax and all sums are float32; weights and outputs are rounded to the inputs' dtype.
    The result does not depend on the number of threads.

    Args:
        query: [tokens, query heads, size], contiguous, in bfloat16 or float32.
        key, value: [tokens, key heads, size], contiguous, in the dtype of query.
        layout: where the prefix and the rows are.
        scaling: factor of the scores.
        window: positions that a sliding-window layer attends to. None: all.
        angles: cos and sin of the RoPE that queries and keys still need, contiguous, with tokens x
            size elements each, in the dtype of query. None: they need none.

    Returns:
        Like query.

    Raises:
        MemoryError: no memory for the packed inputs.
    """
    out: Tensor = _FlashAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, *(angles or (None, None)), layout, scaling, window
    )
    return out


class _PackedLayout(ctypes.Structure):
    """`packed_layout_t` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("sequences", "prefix", "heads", "groups", "window")),
        ("starts", ctypes.POINTER(ctypes.c_long)),
        ("lengths", ctypes.POINTER(ctypes.c_long)),
        ("scaling", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines")),
    ]

    @classmethod
    def from_layout(
        cls,
        layout: PackedLayout,
        heads: int,
        groups: int,
        scaling: float,
        window: int | None,
        angles: Sequence[Tensor],
    ) -> _PackedLayout:
        lengths = [layout.prefix_length, *layout.lengths]
        long_array = ctypes.c_long * len(lengths)
        # The C code takes 0 for no window.
        limits = window is not None and window < sum(lengths)
        return cls(
            len(layout.lengths),
            layout.prefix_length,
            heads,
            groups,
            window if limits else 0,
            long_array(0, *accumulate(lengths[:-1])),
            long_array(*lengths),
            scaling,
            *(t.data_ptr() for t in angles),
        )


class _Context(SavedTensors, Protocol):
    layout: _PackedLayout


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        layout: PackedLayout,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        angles = [t for t in (cos, sin) if t is not None]
        inputs = [query, key, value]
        out, logsumexp, ctx.layout = compiled_forward(inputs, angles, layout, scaling, window)
        # The C layout holds the addresses of the angles only.
        ctx.save_for_backward(*inputs, out, logsumexp, *angles)
        return out

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logsumexp, *_ = ctx.saved_tensors
        input_grads = compiled_backward(
            [query, key, value], out, logsumexp, grads[0].contiguous(), ctx.layout
        )
        return *input_grads, None, None, None, None, None


def compiled_forward(
    inputs: Sequence[Tensor],
    angles: Sequence[Tensor],
    layout: PackedLayout,
    scaling: float,
    window: int | None,
) -> tuple[Tensor, Tensor, Any]:
    """The kernel's forward pass, without gradients.

    Args:
        inputs: query, key and value, as in `flash_attention`.
        angles: cos and sin of RoPE, or nothing; they must outlive the result.
        layout, scaling, window: as in `flash_attention`.

    Returns:
        Like query; the logarithms of the softmax denominators [query heads, tokens], from which
        the backward pass computes the attention weights again instead of reading [heads, queries,
        keys]; and the C code's layout.
    """
    query, key = inputs[:2]
    (tokens, heads, size), key_heads = query.shape, key.shape[1]
    c_layout = _PackedLayout.from_layout(
        layout, key_heads, heads // key_heads, scaling, window, angles
    )
    out = torch.empty_like(query)
    logsumexp = query.new_empty(heads, tokens, dtype=torch.float32)
    build.call(
        _library(size, query.dtype),
        "flash_attention",
        *inputs,
        out,
        logsumexp,
        ctypes.byref(c_layout),
    )
    return out, logsumexp, c_layout


def compiled_backward(
    inputs: Sequence[Tensor], out: Tensor, logsumexp: Tensor, grad: Tensor, layout: Any
) -> list[Tensor]:
    """The kernel's backward pass.

    Args:
        inputs: query, key and value.
        out, logsumexp, layout: results of `compiled_forward`.
        grad: gradient of out, contiguous.

    Returns:
        Gradients of the inputs.
    """
    input_grads = [torch.empty_like(t) for t in inputs]
    build.call(
        _library(out.shape[-1], out.dtype),
        "flash_attention_backward",
        *inputs,
        out,
        logsumexp,
        grad,
        *input_grads,
        ctypes.byref(layout),
    )
    return input_grads


def _library(size: int, dtype: torch.dtype) -> Any:
    return build.load_library("attention", dtype, SIZE=size)


# Outside inference mode, whose tensors cannot take part in autograd.
@cache
@torch.inference_mode(False)
def is_available(size: int, dtype: torch.dtype) -> bool:
    """Whether the kernel exists for heads of this size and gives PyTorch's results.

    Compared are the attention of one short row with RoPE, and its gradients.
    """
    if dtype not in build.TOLERANCES or size not in HEAD_SIZES or _library(size, dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    # 70 is no multiple of the kernel's blocks, so that its remainders run, too.
    query, key, value, grad = (
        torch.randn(70, heads, size, generator=generator).to(dtype) for heads in (2, 1, 1, 2)
    )
    cos, sin = (torch.randn(70, size, generator=generator).to(dtype) for _ in range(2))

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos.float() + torch.cat([-second, first], dim=-1) * sin.float()

    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        inputs = [t.requires_grad_() for t in (query, key, value)]
        layout = PackedLayout(0, [70], query.device)
        out = flash_attention(query, key, value, layout, 0.1, None, (cos, sin))
        actual = [out, *torch.autograd.grad(out, inputs, grad)]
        float32 = [t.detach().float().transpose(0, 1).requires_grad_() for t in inputs]
        q, k, v = rotated(float32[0]), rotated(float32[1]), float32[2]
        sdpa = torch.nn.functional.scaled_dot_product_attention
        out = sdpa(q, k, v, is_causal=True, scale=0.1, enable_gqa=True)
        expected = [out, *torch.autograd.grad(out, float32, grad.float().transpose(0, 1))]
    return all(
        bool((a.transpose(0, 1) - b).norm() <= build.TOLERANCES[dtype] * b.norm())
        for a, b in zip(actual, expected, strict=True)
    )
