"""The products of layers with adapters, and their gradients: wide ones with frozen weights, narrow ones with the adapters'.

A narrow product is little arithmetic on large arrays. By compiled code (`adapted_products.c`) where there is any, what an adapter
adds is added while the frozen product's sums are still in registers, and the narrow products read each array once; else they are
PyTorch's, one after another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from prooftune.engine import compiled

FEWEST = 256
"""Rows from which on compiled code is the faster."""
_PANEL, _HIGH = 32, 8  # numbers whose multiples the code takes, of wide sides and of narrow ones


def low(arrays: Sequence[Tensor], downs: Sequence[Tensor], scaling: float) -> Tensor:
    """The first product of adapters: x Aᵀ, times `scaling`, for each of several x [n, any] with its own A [r, any]; all beside each
    other, [n, sum of r]."""
    if not _fits(*arrays):
        return torch.cat([x @ down.T for x, down in zip(arrays, downs, strict=True)], dim=1).mul_(scaling)
    return _low(arrays, downs, scaling)


def wide(x: Tensor, weight: Tensor, low: Tensor, up: Tensor) -> Tensor:
    """x Wᵀ, rounded, plus low Bᵀ; x [n, in], W [out, in], low [n, r] of which rows may stand apart, B [out, r].

    Added to what is rounded already, as peft does it: half of what a small adapter adds is lost. Added before rounding, training
    follows that in float32, and learned worse at the usual learning rate.
    """
    if not _fits(x, weight) or not _in_pairs(low):
        return (x @ weight.T).addmm_(low, up.T)
    return _wide([x], [weight], True, low, up)


def gradient(grads: Sequence[Tensor], weights: Sequence[Tensor], low: Tensor, down: Tensor) -> Tensor:
    """Of x [n, in], from those of the outputs [n, out] and of all adapters' first products, low [n, R]; W [out, in], A [R, in]."""
    if not _fits(*grads, *weights) or not _in_pairs(low):
        of_x = grads[0] @ weights[0]
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            of_x.addmm_(grad, weight)
        return of_x.addmm_(low, down)
    return _wide(grads, weights, False, low, down)


def over_rows(lows: Sequence[Tensor], arrays: Sequence[Tensor], turned: bool) -> list[Tensor]:
    """lowᵀ x, or, `turned`, xᵀ low, added up over n, for every pair of a narrow array [n, r], of which rows may stand apart, and another
    [n, any]."""
    pairs = zip(lows, arrays, strict=True)
    if not _fits(*arrays) or any(low.shape[1] % _HIGH for low in lows):
        found = [low.T @ x for low, x in pairs]  # faster than the other way round
        return [one.T for one in found] if turned else found
    return [_over_rows(low, x, turned) for low, x in pairs]


def _low(arrays: Sequence[Tensor], downs: Sequence[Tensor], scaling: float) -> Tensor:
    out, at = arrays[0].new_empty(len(arrays[0]), sum(map(len, downs))), 0
    for x, down in zip(arrays, downs, strict=True):
        turned = down.is_contiguous()
        compiled.call(_library(), "low_product", x, *x.shape, down if turned else down.T.contiguous(), int(turned), len(down),
                      float(scaling), out[:, at:], out.stride(0))
        at += len(down)
    return out


def _wide(arrays: Sequence[Tensor], weights: Sequence[Tensor], turned: bool, low: Tensor, narrow: Tensor) -> Tensor:
    width = len(narrow) if turned else narrow.shape[1]
    out = low.new_empty(len(low), width)
    depths = (ctypes.c_long * len(arrays))(*(one.shape[1] for one in arrays))
    compiled.call(_library(), "wide_product", _addresses(arrays), _addresses(weights), depths, len(arrays), int(turned), *out.shape,
                  low, low.stride(0), low.shape[1], narrow.contiguous(), out)
    return out


def _over_rows(low: Tensor, x: Tensor, turned: bool) -> Tensor:
    size, rank = x.shape[1], low.shape[1]
    out = x.new_empty((size, rank) if turned else (rank, size), dtype=torch.float32)
    compiled.call(_library(), "over_rows", low, low.stride(0), len(low), rank, x, size, int(turned), out)
    return out


def _addresses(arrays: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(one.data_ptr() for one in arrays))


def _in_pairs(low: Tensor) -> bool:
    return low.shape[1] % 2 == 0 == low.stride(0) % 2 and low.data_ptr() % 4 == 0


def _fits(first: Tensor, *others: Tensor) -> bool:
    return (len(first) >= FEWEST and all(one.dtype == torch.bfloat16 and one.device.type == "cpu" and one.is_contiguous()
                                         and not one.shape[1] % _PANEL for one in (first, *others)) and usable())


def _library() -> Any:
    return compiled.library("adapted_products")


@cache
@torch.inference_mode(False)
def usable() -> bool:
    """Whether there is compiled code, and it gives what PyTorch's products do."""
    if _library() is None:
        return False
    random = torch.Generator().manual_seed(0)
    x, one, other, down, up = (torch.randn(shape, generator=random).bfloat16()
                               for shape in ((19, 64), (64, 64), (32, 64), (16, 64), (96, 8)))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        low = _low([x], [down], 0.5)
        grads = [_wide([x], [weight], True, part, b) for weight, part, b in
                 zip((one, other), torch.split(low, 8, dim=1), torch.split(up, [64, 32]), strict=True)]
        found = [low, *grads, _wide(grads, [one, other], False, low, down), _over_rows(low, x, False), _over_rows(low, x, True)]
        x, one, other, down, up, low, first, second = (a.float() for a in (x, one, other, down, up, low, *grads))
        wanted = [x @ down.T * 0.5, x @ one.T + low[:, :8] @ up[:64].T, x @ other.T + low[:, 8:] @ up[64:].T,
                  first @ one + second @ other + low @ down, low.T @ x, x.T @ low]
    return all(bool((a.float() - b).norm() <= 0.02 * b.norm()) for a, b in zip(found, wanted, strict=True))
