"""Products that are narrow on one side, the rank of an adapter: by compiled code (`narrow.c`) where there is any, else PyTorch's.

A library made for square products takes two to four times as long for these as for others of as many operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from prooftune.engine import compiled

FEWEST = 64
"""Rows from which on compiled code is the faster."""
WIDEST = 256
"""Of a narrow side."""


def to_narrow(x: Tensor, w: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale · x w; x [n, k], w [k, m] with few m. Into `out` [n, m], where it is given, which may be columns of a wider array."""
    if not _fits(x, w, narrow=w.shape[1], wide=w.shape[0]):
        found = (x @ w).mul_(scale)
        return found if out is None else out.copy_(found)
    out = x.new_empty(len(x), w.shape[1]) if out is None else out
    x, w, by_columns, row = x.contiguous(), *_laid(w)
    compiled.call(_library(), "to_narrow", x, *x.shape, w, row, w.shape[1], by_columns, float(scale), out, out.stride(0))
    return out


def add_from_narrow(y: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """y += x w in place; x [n, k] with few k, w [k, m], y [n, m] contiguous."""
    if not _fits(y, w, narrow=w.shape[0], wide=w.shape[1]) or not y.is_contiguous() or x.stride(1) != 1:
        return y.addmm_(x, w)
    w, by_columns, row = _laid(w)
    compiled.call(_library(), "add_from_narrow", y, *y.shape, x, x.stride(0), x.shape[1], w, row, by_columns)
    return y


def over_tokens(x: Tensor, y: Tensor) -> Tensor:
    """xᵀ y; x [n, m] with few m, y [n, k]; float32 where compiled, else like x."""
    if not _fits(y, x, narrow=x.shape[1], wide=y.shape[1]) or x.stride(1) != 1:
        return x.T @ y
    y, out = y.contiguous(), y.new_empty(x.shape[1], y.shape[1], dtype=torch.float32)
    compiled.call(_library(), "over_tokens", x, x.stride(0), x.shape[1], y, *y.shape, out)
    return out


def _fits(long: Tensor, other: Tensor, narrow: int, wide: int) -> bool:
    return (long.device.type == "cpu" and long.dtype == other.dtype == torch.bfloat16 and len(long) >= FEWEST
            and narrow % 16 == 0 and 0 < narrow <= WIDEST and wide % 32 == 0 and _tried())


def _laid(w: Tensor) -> tuple[Tensor, int, int]:
    """A matrix, whether its columns (1) or its rows (0) are what is contiguous, and the distance between two of these."""
    if w.stride(0) == 1 and w.stride(1) >= w.shape[0]:
        return w, 1, w.stride(1)
    w = w if w.stride(1) == 1 else w.contiguous()
    return w, 0, w.stride(0)


def _library() -> Any:
    return compiled.library("narrow")


@cache
def _tried() -> bool:
    """Whether there is compiled code, and it gives PyTorch's products."""
    if _library() is None:
        return False
    random = torch.Generator().manual_seed(0)
    x, w, y = (torch.randn(*shape, generator=random).bfloat16() for shape in ((70, 64), (64, 48), (70, 96)))
    low, up = x @ w, torch.randn(96, 48, generator=random).bfloat16()
    ours, theirs = (x.new_empty(70, 48), y.clone(), x.new_empty(48, 96, dtype=torch.float32)), (2 * low, y + low @ up.T, low.T @ y)
    compiled.call(_library(), "to_narrow", x, 70, 64, w, 48, 48, 0, 2.0, ours[0], 48)
    compiled.call(_library(), "add_from_narrow", ours[1], 70, 96, low, 48, 48, up, 48, 1)
    compiled.call(_library(), "over_tokens", low, 48, 48, y, 70, 96, ours[2])
    return all(bool((a.float() - b.float()).norm() <= 0.02 * b.float().norm()) for a, b in zip(ours, theirs, strict=True))
