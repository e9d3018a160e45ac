"""The products of layers with LoRA adapters that read one input, and their gradients.

With frozen weights W, A and B of each layer's adapter and a factor s:

    low = s x Aᵀ                      out = x Wᵀ + low Bᵀ
    of low = s (of out) B             of x = sum of (of out) W + (of low) A
    of A = (of low)ᵀ x                of B = (of out)ᵀ low

Those with adapters are little arithmetic on large arrays. By compiled code (`lora_linear.c`) where
there is any, what an adapter adds is added while the frozen product's sums are in registers, and
all of a step is one call; else these are PyTorch's products, one after another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.kernels import build

FEWEST = 128
"""Rows from which on compiled code is the faster."""
_WIDE, _NARROW = 32, 8
"""Numbers whose multiples it takes, of inputs and outputs and of ranks."""


@dataclass(frozen=True, slots=True)
class LoraLinears:
    """LoraLinears on one input.

    Attributes:
        x: [n, in].
        frozen: of each layer W [out, in], in the dtype of x.
        down, up: of each A [r, in] and B [out, r].
        scaling: s.
    """

    x: Tensor
    frozen: Sequence[Tensor]
    down: Sequence[Tensor]
    up: Sequence[Tensor]
    scaling: float

    def forward(self, wide: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
        """low, that of all layers beside each other [n, sum of r], and the outs [n, out], or none
        if they are not wanted.

        What an adapter adds is added to what is rounded already, as peft does it: half of what a
        small one adds is lost. Added before rounding, training follows that in float32, and learned
        worse at the usual learning rate.
        """
        if self._fits():
            return self._forward(wide)
        low = (self.x @ torch.cat(self._rounded(self.down)).T).mul_(self.scaling)
        if not wide:
            return low, ()
        return low, tuple(
            (self.x @ w.T).addmm_(part, b.T)
            for w, part, b in zip(self.frozen, self.parts(low), self._rounded(self.up), strict=True)
        )

    def backward(
        self, low: Tensor, grads: Sequence[Tensor], wide: bool = True
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor]]:
        """The gradients of low, of x if it is wanted, and of every A and B, from those of the outs
        [n, out]."""
        if self._fits():
            return self._backward(low, [grad.contiguous() for grad in grads], wide)
        down, up = torch.cat(self._rounded(self.down)), self._rounded(self.up)
        of_low = torch.cat([grad @ b for grad, b in zip(grads, up, strict=True)], dim=1).mul_(
            self.scaling
        )
        of_x = None
        if wide:
            of_x = grads[0] @ self.frozen[0]
            for grad, w in zip(grads[1:], self.frozen[1:], strict=True):
                of_x.addmm_(grad, w)
            of_x.addmm_(of_low, down)
        of_down = torch.split(of_low.T @ self.x, self._ranks())
        of_up = [
            (part.T @ grad).T for part, grad in zip(self.parts(low), grads, strict=True)
        ]  # faster than the other way round
        return of_low, of_x, of_down, of_up

    def parts(self, low: Tensor) -> tuple[Tensor, ...]:
        """Each layer's part of low."""
        return torch.split(low, self._ranks(), dim=1)

    def _rounded(self, adapters: Sequence[Tensor]) -> list[Tensor]:
        return [one.to(self.x.dtype) for one in adapters]

    def _ranks(self) -> list[int]:
        return [len(one) for one in self.down]

    def _fits(self) -> bool:
        return (
            self.x.device.type == "cpu"
            and len(self.x) >= FEWEST
            and self.x.shape[1] % _WIDE == 0
            and all(
                len(w) % _WIDE == 0 and one.shape[0] % _NARROW == 0
                for w, one in zip(self.frozen, self.down, strict=True)
            )
            and all(
                one.dtype == torch.bfloat16 and one.is_contiguous()
                for one in (self.x, *self.frozen)
            )
            and all(
                one.dtype == torch.float32 and one.is_contiguous() for one in (*self.down, *self.up)
            )
            and is_available()
        )

    def _forward(self, wide: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        n = len(self.x)
        low = self.x.new_empty(n, sum(self._ranks()))
        outs = tuple(self.x.new_empty(n, len(w)) for w in self.frozen) if wide else ()
        build.call(
            _library(),
            "adapted",
            ctypes.byref(_Layers.of(self)),
            low,
            _addresses(outs) if wide else None,
        )
        return low, outs

    def _backward(
        self, low: Tensor, grads: Sequence[Tensor], wide: bool
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor]]:
        of_low, of_x = torch.empty_like(low), torch.empty_like(self.x) if wide else None
        of_down, of_up = ([torch.empty_like(one) for one in some] for some in (self.down, self.up))
        build.call(
            _library(),
            "adapted_backward",
            ctypes.byref(_Layers.of(self)),
            low,
            _addresses(grads),
            of_low,
            of_x,
            _addresses(of_down),
            _addresses(of_up),
        )
        return of_low, of_x, of_down, of_up


class _Layers(ctypes.Structure):
    """`layers_t` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("n", "depth", "count")),
        *((name, ctypes.POINTER(ctypes.c_long)) for name in ("widths", "ranks")),
        ("scaling", ctypes.c_float),
        ("x", ctypes.c_void_p),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("weights", "downs", "ups")),
    ]

    @classmethod
    def of(cls, layers: LoraLinears) -> _Layers:
        count = len(layers.frozen)
        numbers = ctypes.c_long * count
        return cls(
            *layers.x.shape,
            count,
            numbers(*map(len, layers.frozen)),
            numbers(*map(len, layers.down)),
            layers.scaling,
            layers.x.data_ptr(),
            *map(_addresses, (layers.frozen, layers.down, layers.up)),
        )


def _addresses(arrays: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(one.data_ptr() for one in arrays))


def _library() -> Any:
    return build.library("lora_linear")


@cache
@torch.inference_mode(False)
def is_available() -> bool:
    """Whether there is compiled code, and it gives what PyTorch's products do."""
    if _library() is None:
        return False
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        tried = LoraLinears(
            numbers(19, 64).bfloat16(),
            [numbers(64, 64).bfloat16(), numbers(32, 64).bfloat16()],
            [numbers(8, 64), numbers(16, 64)],
            [numbers(64, 8), numbers(32, 16)],
            0.5,
        )
        low, outs = tried._forward(wide=True)
        wide = LoraLinears(
            tried.x.float(), [w.float() for w in tried.frozen], tried.down, tried.up, 0.5
        )
        wanted_low, wanted_outs = wide.forward()
        of_low, of_x, of_down, of_up = tried._backward(low, outs, wide=True)
        wanted = wide.backward(low.float(), [out.float() for out in outs])
    pairs = [
        (low, wanted_low),
        *zip(outs, wanted_outs, strict=True),
        (of_low, wanted[0]),
        (of_x, wanted[1]),
        *zip(of_down, wanted[2], strict=True),
        *zip(of_up, wanted[3], strict=True),
    ]
    return all(
        bool((a.float() - b).norm() <= 0.02 * b.norm())
        for a, b in pairs
        if a is not None and b is not None
    )
