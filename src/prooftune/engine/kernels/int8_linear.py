"""Products with frozen weights in 8 bits while adapters learn, on processors that multiply bytes
twice as fast as 16-bit numbers.

Only what is multiplied with a frozen weight is rounded to bytes: activations on the way forward,
gradients on the way back. What an adapter learns from, its own products, norms, attention, and all
that is evaluated stay as they are. That is SwitchBack's division (arXiv 2304.13013). As in Jetfire
(arXiv 2403.12422) every small group of numbers, of a token's as of a weight's, has its scale, so
that a single large one spoils no others. A token's result depends on that token alone, whatever
stands beside it. By compiled code (`int8_linear.c`) alone: where there is none, nothing is computed
like this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.kernels import build

GROUPS = range(128, 31, -32)
"""Numbers of a row that may have a scale in common; the first that fits is taken."""

_KEPT: ContextVar[dict[tuple[int, ...], QuantizedFrozenLinear] | None] = ContextVar(
    "weights in 8 bits", default=None
)


@contextmanager
def use_int8_linear() -> Iterator[Mapping[tuple[int, ...], QuantizedFrozenLinear]]:
    """Meanwhile compute products with frozen weights in 8 bits wherever adapters learn and that is
    possible.

    The weights must not change meanwhile: they are laid out at their first use, which takes a
    little more than two bytes for each, and by the input that they meet then.

    Yields:
        What has been laid out by then.
    """
    kept: dict[tuple[int, ...], QuantizedFrozenLinear] = {}
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def frozen(
    weights: Sequence[Tensor], ranks: Sequence[int], x: Tensor
) -> QuantizedFrozenLinear | None:
    """What computes the products of x [n, in] with these weights [out, in] in 8 bits, for adapters
    of these ranks; None where that is not wanted (among `use_int8_linear` alone it is) or not
    possible."""
    kept = _KEPT.get()
    if kept is None or any(rank % 2 for rank in ranks) or not is_available():
        return None
    name = tuple(map(id, weights))  # which `QuantizedFrozenLinear` keeps from being used again
    if name not in kept:
        if not all(_fits(weight) for weight in weights):
            return None
        kept[name] = QuantizedFrozenLinear(weights, x)
    return kept[name]


class QuantizedFrozenLinear:
    """QuantizedFrozenLinear weights [out, in] that one input is multiplied with, in 8 bits, laid out for both
    ways.

    Columns of inputs like `example` [n, in] are made more alike in size before they are rounded,
    and the weights' the other way round, as by SmoothQuant (arXiv 2211.10438); by their usual size
    instead of the largest, since a few tokens have numbers a thousand times the others'.
    """

    def __init__(self, weights: Sequence[Tensor], example: Tensor) -> None:
        self._weights = list(weights)
        together = (
            weights[0].detach()
            if len(weights) == 1
            else torch.cat([one.detach() for one in weights])
        )
        usual = torch.linalg.vector_norm(example.detach(), dim=0, dtype=torch.float32)
        largest = together.abs().amax(dim=0).float()
        usual, largest = (
            one.clamp_min(max(one.mean().item() / 100, 1e-30)) for one in (usual, largest)
        )
        self._factors, self._ones = (largest / usual).sqrt_(), torch.ones(len(together))
        self._forward = [Weight(one, _group(one.shape[1]), self._factors) for one in weights]
        self._backward = Weight(together, _group(*map(len, weights)), None)

    def products(
        self, x: Tensor, lows: Sequence[Tensor], ups: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """x Wᵀ + low Bᵀ for every weight W.

        Args:
            x: [n, in].
            lows: what each adapter's first product gave [n, r], of which rows may stand apart.
            ups: each adapter's B [out, r].
        """
        given = _Bytes([x], self._forward[0].group, self._factors)
        return tuple(
            weight.product(given, low, up.reshape(len(up), -1, 2).transpose(0, 1))
            for weight, low, up in zip(self._forward, lows, ups, strict=True)
        )

    def gradient(self, grads: Sequence[Tensor], low: Tensor, down: Tensor) -> Tensor:
        """Of x [n, in], from those of the outputs [n, out] and of all adapters' first products, low
        [n, R]; down [R, in]."""
        up = down.view(-1, 2, down.shape[1]).transpose(1, 2)
        return self._backward.product(_Bytes(grads, self._backward.group, self._ones), low, up)


class Weight:
    """A weight [width, depth] divided by factors [depth], in bytes; without factors [depth, width],
    as it is."""

    def __init__(self, weight: Tensor, group: int, factors: Tensor | None) -> None:
        self.width, self.depth = weight.shape if factors is not None else reversed(weight.shape)
        self.group = group
        self._panels = weight.new_empty(self.width * self.depth, dtype=torch.int8)
        self._starts = weight.new_empty(self.width * self.depth // group, dtype=torch.int32)
        self._scales = self._starts.new_empty(len(self._starts), dtype=torch.float32)
        name, given = ("laid_out_turned", []) if factors is None else ("laid_out", [factors])
        build.call(
            _library(),
            name,
            weight,
            self.width,
            self.depth,
            group,
            *given,
            self._panels,
            self._starts,
            self._scales,
        )

    def product(self, given: _Bytes, low: Tensor, up: Tensor) -> Tensor:
        """Of what is given [n, depth], plus low [n, r] times up, pairs [r / 2, width, 2]; [n,
        width]."""
        out = low.new_empty(len(low), self.width)
        build.call(
            _library(),
            "int8_product",
            given.bytes,
            given.scales,
            len(low),
            self.depth,
            self.group,
            self._panels,
            self._starts,
            self._scales,
            self.width,
            low,
            low.stride(0),
            low.shape[1],
            up.contiguous(),
            out,
        )
        return out


class _Bytes:
    """Rows of numbers, times a factor for each column, in bytes; those of several arrays [n, any]
    beside each other."""

    def __init__(self, arrays: Sequence[Tensor], group: int, factors: Tensor) -> None:
        depth, at = len(factors), 0
        self.bytes = arrays[0].new_empty(len(arrays[0]), depth, dtype=torch.uint8)
        self.scales = arrays[0].new_empty(len(arrays[0]), depth // group, dtype=torch.float32)
        for one in arrays:
            build.call(
                _library(),
                "quantised",
                one.contiguous(),
                *one.shape,
                group,
                factors[at:],
                self.bytes[:, at:],
                depth,
                self.scales[:, at // group :],
                depth // group,
            )
            at += one.shape[1]


def _group(*depths: int) -> int:
    return next(group for group in GROUPS if not any(depth % group for depth in depths))


def _fits(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.is_contiguous()
        and weight.dim() == 2
        and not any(size % 32 for size in weight.shape)
        and not weight.requires_grad
    )


def _library() -> Any:
    return build.library("int8_linear")


@cache
@torch.inference_mode(False)
def is_available() -> bool:
    """Whether there is compiled code, and it gives about what products of 16-bit numbers do."""
    if _library() is None:
        return False
    random = torch.Generator().manual_seed(0)
    x, first, second, down, up = (
        torch.randn(shape, generator=random).bfloat16()
        for shape in ((7, 64), (64, 64), (32, 64), (4, 64), (96, 2))
    )
    low, weights = x @ down.T, (first, second)
    lows, ups, tried = (
        torch.split(low, 2, dim=1),
        torch.split(up, [64, 32]),
        QuantizedFrozenLinear(weights, x),
    )
    wanted = [
        x.float() @ w.float().T + part.float() @ b.float().T
        for w, part, b in zip(weights, lows, ups, strict=True)
    ]
    grads = [one.bfloat16() for one in wanted]
    of_x = torch.cat(grads, dim=1).float() @ torch.cat(weights).float() + low.float() @ down.float()
    found = [*tried.products(x, lows, ups), tried.gradient(grads, low, down)]
    return all(
        bool((a.float() - b).norm() <= 0.03 * b.norm())
        for a, b in zip(found, [*wanted, of_x], strict=True)
    )
