"""LoRA linear layers that read one input, forward and backward.

With frozen weights W, each layer's adapter matrices A and B, and a scaling factor s:

    hidden = s x Aᵀ                      out = x Wᵀ + hidden Bᵀ
    grad_hidden = s grad_out B           grad_x = sum of grad_out W + grad_hidden A
    grad_A = grad_hiddenᵀ x              grad_B = grad_outᵀ hidden

The adapters' matmuls are little arithmetic on large arrays. The compiled kernel (`lora_linear.c`)
adds an adapter's contribution while the frozen matmul's accumulators are in registers, with one
call per direction; without it, these are PyTorch's matmuls, one after another.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.kernels import build

MIN_ROWS = 128
"""Number of rows from which the compiled kernel is faster."""
_SIZE_MULTIPLE, _RANK_MULTIPLE = 32, 8
"""The kernel needs in and out features, and ranks, that are multiples of these."""

Gradients = tuple[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor]]
"""Gradients of lora_hidden, of x (None if not wanted), of every A and of every B."""


@dataclass(slots=True)
class LoraLinears:
    """LoRA linear layers on one input.

    Attributes:
        x: [n, in].
        weights: frozen W [out, in] of each layer, in the dtype of x.
        lora_a, lora_b: A [r, in] and B [out, r] of each layer.
        scaling: s.
    """

    x: Tensor
    weights: Sequence[Tensor]
    lora_a: Sequence[Tensor]
    lora_b: Sequence[Tensor]
    scaling: float

    def forward(self, with_outputs: bool = True) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Forward pass.

        The adapter's output is added to the frozen output after rounding, as peft does, so half of
        a small contribution is lost. Adding before rounding would keep it, but training then
        follows that in float32, and learned worse at the usual learning rate.

        Args:
            with_outputs: whether to compute the outputs.

        Returns:
            lora_hidden of all layers side by side [n, sum of r], and the outputs [n, out], or none.
        """
        if self._is_supported():
            return self.compiled_forward(with_outputs)
        lora_hidden = (self.x @ torch.cat(self._in_x_dtype(self.lora_a)).T).mul_(self.scaling)
        if not with_outputs:
            return lora_hidden, ()
        return lora_hidden, tuple(
            (self.x @ w.T).addmm_(part, b.T)
            for w, part, b in zip(
                self.weights,
                self.split_hidden(lora_hidden),
                self._in_x_dtype(self.lora_b),
                strict=True,
            )
        )

    def backward(
        self, lora_hidden: Tensor, grads: Sequence[Tensor], with_grad_x: bool = True
    ) -> Gradients:
        """Backward pass.

        Args:
            lora_hidden: result of `forward`.
            grads: gradients of the outputs [n, out].
            with_grad_x: whether to compute the gradient of x.
        """
        if self._is_supported():
            return self.compiled_backward(
                lora_hidden, [grad.contiguous() for grad in grads], with_grad_x
            )
        a, bs = torch.cat(self._in_x_dtype(self.lora_a)), self._in_x_dtype(self.lora_b)
        grad_hidden = torch.cat([grad @ b for grad, b in zip(grads, bs, strict=True)], dim=1).mul_(
            self.scaling
        )
        grad_x = None
        if with_grad_x:
            # Accumulated in place, without an array per layer.
            grad_x = grads[0] @ self.weights[0]
            for grad, w in zip(grads[1:], self.weights[1:], strict=True):
                grad_x.addmm_(grad, w)
            grad_x.addmm_(grad_hidden, a)
        # One matmul for the A of all layers.
        grad_a = torch.split(grad_hidden.T @ self.x, self._ranks())
        # (hiddenᵀ grad)ᵀ is faster than gradᵀ hidden.
        grad_b = [
            (part.T @ grad).T
            for part, grad in zip(self.split_hidden(lora_hidden), grads, strict=True)
        ]
        return grad_hidden, grad_x, grad_a, grad_b

    def split_hidden(self, lora_hidden: Tensor) -> tuple[Tensor, ...]:
        """Each layer's part of lora_hidden."""
        return torch.split(lora_hidden, self._ranks(), dim=1)

    def _in_x_dtype(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        return [matrix.to(self.x.dtype) for matrix in matrices]

    def _ranks(self) -> list[int]:
        return [a.shape[0] for a in self.lora_a]

    def _is_supported(self) -> bool:
        # A loop and no generators: this runs 240 times in a training step of a small model.
        for w, a, b in zip(self.weights, self.lora_a, self.lora_b, strict=True):
            if (
                a.shape[0] % _RANK_MULTIPLE
                or not (a.dtype == b.dtype == torch.float32)
                or not (w.is_contiguous() and a.is_contiguous() and b.is_contiguous())
            ):
                return False
        return self.x.is_contiguous() and can_compile(self.x, self.weights)

    def compiled_forward(self, with_outputs: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`forward` with the compiled kernel."""
        n = self.x.shape[0]
        lora_hidden = self.x.new_empty(n, sum(self._ranks()))
        outs = tuple(self.x.new_empty(n, w.shape[0]) for w in self.weights) if with_outputs else ()
        packed, _tables_in_use = _pack_layers(self)
        build.call(
            _library(self.x.dtype),
            "lora_forward",
            packed,
            lora_hidden,
            _addresses(outs) if with_outputs else None,
        )
        return lora_hidden, outs

    def compiled_backward(
        self, lora_hidden: Tensor, grads: Sequence[Tensor], with_grad_x: bool
    ) -> Gradients:
        """`backward` with the compiled kernel."""
        grad_hidden = torch.empty_like(lora_hidden)
        grad_x = torch.empty_like(self.x) if with_grad_x else None
        grad_a, grad_b = (
            [torch.empty_like(matrix) for matrix in matrices]
            for matrices in (self.lora_a, self.lora_b)
        )
        packed, _tables_in_use = _pack_layers(self)
        build.call(
            _library(self.x.dtype),
            "lora_backward",
            packed,
            lora_hidden,
            _addresses(grads),
            grad_hidden,
            grad_x,
            _addresses(grad_a),
            _addresses(grad_b),
        )
        return grad_hidden, grad_x, grad_a, grad_b


def can_compile(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the compiled kernel computes layers of these sizes and dtype; x is [n, in]."""
    return (
        x.device.type == "cpu"
        and x.shape[0] >= MIN_ROWS
        and x.shape[1] % _SIZE_MULTIPLE == 0
        and all(w.dtype == x.dtype and w.shape[0] % _SIZE_MULTIPLE == 0 for w in weights)
        and is_available(x.dtype)
    )


def pad_ranks(
    lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Pad adapters with zeros to the next rank of the compiled kernel, where it is another one.

    Args:
        lora_a, lora_b: A [r, in] and B [out, r] of each layer.

    Returns:
        A and B of the padded rank, which compute the same; autograd drops the padding's gradients.
    """
    pads = [-a.shape[0] % _RANK_MULTIPLE for a in lora_a]
    if not any(pads):
        return list(lora_a), list(lora_b)
    pad = torch.nn.functional.pad
    return (
        [pad(a, (0, 0, 0, n)) if n else a for a, n in zip(lora_a, pads, strict=True)],
        [pad(b, (0, n)) if n else b for b, n in zip(lora_b, pads, strict=True)],
    )


_LAYERS = struct.Struct("@lllPPfPPPP")
"""`lora_layers_t` of the C code: n, depth, count, widths, ranks, scaling, x, weights, A, B."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """Arrays of the C struct that are the same in every step, and their addresses."""

    arrays: tuple[Any, ...]
    addresses: tuple[int, ...]


def _pack_layers(layers: LoraLinears) -> tuple[bytes, _Tables]:
    """The C struct of layers, and the arrays that it refers to, to be kept during the call."""
    x = layers.x
    values: list[int] = []
    for w, a, b in zip(layers.weights, layers.lora_a, layers.lora_b, strict=True):
        values += (w.shape[0], a.shape[0], w.data_ptr(), a.data_ptr(), b.data_ptr())
    tables = _tables(tuple(values))
    widths, ranks, *matrices = tables.addresses
    packed = _LAYERS.pack(
        *x.shape, len(layers.weights), widths, ranks, layers.scaling, x.data_ptr(), *matrices
    )
    return packed, tables


# Making ctypes arrays takes longer than an adapter's matmul, so they are kept for some models.
@lru_cache(maxsize=4096)
def _tables(values: tuple[int, ...]) -> _Tables:
    """Arrays of widths, ranks and the addresses of W, A and B from those of each layer in turn."""
    arrays = tuple(
        (kind * (len(values) // 5))(*values[i::5])
        for i, kind in enumerate([ctypes.c_long] * 2 + [ctypes.c_void_p] * 3)
    )
    return _Tables(arrays, tuple(map(ctypes.addressof, arrays)))


def _addresses(arrays: Sequence[Tensor]) -> Any:
    # Addresses only: the caller keeps the tensors alive until the call returns.
    return (ctypes.c_void_p * len(arrays))(*[t.data_ptr() for t in arrays])


def _library(dtype: torch.dtype) -> Any:
    return build.load_library("lora_linear", dtype)


@cache
@torch.inference_mode(False)
def is_available(dtype: torch.dtype) -> bool:
    """Whether the compiled kernel exists, pays, and gives PyTorch's results on a small example."""
    if dtype not in build.TOLERANCES or (dtype == torch.float32 and build.has_wider_vectors()):
        return False
    if _library(dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        layers = LoraLinears(
            randn(19, 64).to(dtype),
            [randn(64, 64).to(dtype), randn(32, 64).to(dtype)],
            [randn(8, 64), randn(16, 64)],
            [randn(64, 8), randn(32, 16)],
            0.5,
        )
        lora_hidden, outs = layers.compiled_forward(with_outputs=True)
        # The reference is float64 from the same rounded inputs, so only the kernel's own rounding
        # differs.
        weights, lora_a, lora_b = (
            [matrix.double() for matrix in matrices]
            for matrices in (layers.weights, layers.lora_a, layers.lora_b)
        )
        float64 = LoraLinears(layers.x.double(), weights, lora_a, lora_b, 0.5)
        expected_hidden, expected_outs = float64.forward()
        grad_hidden, grad_x, grad_a, grad_b = layers.compiled_backward(
            lora_hidden, outs, with_grad_x=True
        )
        expected = float64.backward(lora_hidden.double(), [out.double() for out in outs])
    pairs = [
        (lora_hidden, expected_hidden),
        *zip(outs, expected_outs, strict=True),
        (grad_hidden, expected[0]),
        (grad_x, expected[1]),
        *zip(grad_a, expected[2], strict=True),
        *zip(grad_b, expected[3], strict=True),
    ]
    return all(
        bool((a - b).norm() <= build.TOLERANCES[dtype] * b.norm())
        for a, b in pairs
        if a is not None and b is not None
    )
