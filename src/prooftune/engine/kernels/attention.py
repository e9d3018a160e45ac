"""Attention over a line of tokens by compiled code (`attention.c`), where the processor, dtype and
layer allow it."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.kernels import build

SIZES = range(32, 257, 32)
"""Sizes of heads that it can be compiled for."""


def fits(query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None) -> bool:
    """Whether attention of queries [tokens, query heads, size] to keys and values [tokens, key
    heads, size] can be computed here by compiled code."""
    (tokens, heads, size), shape = query.shape, key.shape
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and softcap is None
        and scaling > 0
        and shape == value.shape
        and (tokens, size) == (shape[0], shape[2])
        and heads % shape[1] == 0
        and is_available(size)
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: PackedLayout,
    scaling: float,
    window: int | None,
) -> Tensor:
    """Attention of queries [tokens, query heads, size] to keys and values [tokens, key heads,
    size], all contiguous; like queries.

    Scores, their softmax and all sums are float32; weights and outputs are rounded. The result does
    not depend on the number of threads.

    Raises:
        MemoryError: there is none for what is laid out.
    """
    out: Tensor = _Attention.apply(query, key, value, blocks, scaling, window)  # type: ignore[no-untyped-call]
    return out


class _Line(ctypes.Structure):
    """`line_t` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("rows", "prefix", "heads", "groups", "window")),
        ("starts", ctypes.POINTER(ctypes.c_long)),
        ("lengths", ctypes.POINTER(ctypes.c_long)),
        ("scaling", ctypes.c_float),
    ]

    @classmethod
    def of(
        cls, blocks: PackedLayout, heads: int, groups: int, scaling: float, window: int | None
    ) -> _Line:
        lengths = [blocks.prefix, *blocks.lengths]
        numbers = ctypes.c_long * len(lengths)
        reaches = window is not None and window < sum(lengths)
        return cls(
            len(blocks.lengths),
            blocks.prefix,
            heads,
            groups,
            window if reaches else 0,
            numbers(0, *accumulate(lengths[:-1])),
            numbers(*lengths),
            scaling,
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: PackedLayout,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        tokens, heads, size = query.shape
        ctx.size, ctx.line = (
            size,
            _Line.of(blocks, key.shape[1], heads // key.shape[1], scaling, window),
        )
        out, sums = torch.empty_like(query), query.new_empty(heads, tokens, dtype=torch.float32)
        build.call(_library(size), "attend", query, key, value, out, sums, ctypes.byref(ctx.line))
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = ctx.saved_tensors
        found = [torch.empty_like(one) for one in given[:3]]
        build.call(
            _library(ctx.size),
            "attend_backward",
            *given,
            grads[0].contiguous(),
            *found,
            ctypes.byref(ctx.line),
        )
        return *found, None, None, None


def _library(size: int) -> Any:
    return build.library("attention", SIZE=size)


@cache
@torch.inference_mode(False)
def is_available(size: int) -> bool:
    """Whether there is such code for heads of this size, and it gives PyTorch's own attention and
    gradients on one short row."""
    if size not in SIZES or _library(size) is None:
        return False
    random = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(70, heads, size, generator=random).bfloat16() for heads in (2, 1, 1, 2)
    )
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        given = [one.requires_grad_() for one in (query, key, value)]
        out = attend(query, key, value, PackedLayout(0, [70], query.device), 0.1, None)
        found = [out, *torch.autograd.grad(out, given, grad)]
        wide = [one.detach().float().transpose(0, 1).requires_grad_() for one in given]
        attention = torch.nn.functional.scaled_dot_product_attention
        out = attention(wide[0], wide[1], wide[2], is_causal=True, scale=0.1, enable_gqa=True)
        wanted = [out, *torch.autograd.grad(out, wide, grad.float().transpose(0, 1))]
    return all(
        bool((one.transpose(0, 1) - other).norm() <= 0.02 * other.norm())
        for one, other in zip(found, wanted, strict=True)
    )
