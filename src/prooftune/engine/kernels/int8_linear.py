"""int8 matmuls with frozen weights while adapters train, on CPUs with fast int8 (AVX512-VNNI).

Only the operands of frozen matmuls are quantized: activations in the forward pass, gradients in the
backward pass. The adapters' own matmuls, norms, attention and all inference keep their precision,
as in SwitchBack (arXiv 2304.13013). As in Jetfire (arXiv 2403.12422), every small group of values
of an activation or weight row has its own scale, so a single outlier affects only its group. A
token's result depends on that token alone, whatever the rest of the batch. There is no fallback:
without the compiled kernel (`int8_linear.c`) nothing is quantized.
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

GROUP_SIZES = range(128, 31, -32)
"""Numbers of values that may share a scale; the first that divides the row length is used."""

_QUANTIZED: ContextVar[dict[tuple[int, ...], QuantizedFrozenLinear] | None] = ContextVar(
    "quantized weights", default=None
)


@contextmanager
def use_int8_linear() -> Iterator[Mapping[tuple[int, ...], QuantizedFrozenLinear]]:
    """Compute frozen matmuls in int8 for the duration of the block, where adapters train.

    The weights must not change meanwhile. They are quantized at their first use, calibrated on the
    input of that call; this takes a little more than two bytes per weight.

    Yields:
        The weights quantized so far.
    """
    quantized: dict[tuple[int, ...], QuantizedFrozenLinear] = {}
    token = _QUANTIZED.set(quantized)
    try:
        yield quantized
    finally:
        _QUANTIZED.reset(token)


def is_used() -> bool:
    """Whether the code runs within `use_int8_linear`."""
    return _QUANTIZED.get() is not None


def get_quantized(
    weights: Sequence[Tensor], ranks: Sequence[int], x: Tensor
) -> QuantizedFrozenLinear | None:
    """The int8 matmuls of x with these weights, quantized on the first call.

    Args:
        weights: frozen weights [out, in] on the same input.
        ranks: ranks of their adapters.
        x: [n, in].

    Returns:
        None outside `use_int8_linear`, and where int8 is not supported.
    """
    quantized = _QUANTIZED.get()
    # The kernel multiplies pairs along the rank, so ranks must be even.
    if quantized is None or any(rank % 2 for rank in ranks) or not is_available():
        return None
    # QuantizedFrozenLinear holds the weights, so their ids are not reused.
    key = tuple(map(id, weights))
    if key not in quantized:
        if not all(_is_supported(weight) for weight in weights):
            return None
        quantized[key] = QuantizedFrozenLinear(weights, x)
    return quantized[key]


class QuantizedFrozenLinear:
    """Frozen weights [out, in] on one input, quantized to int8 for forward and backward passes.

    Before quantization, input columns are scaled to similar sizes and the weights inversely, as in
    SmoothQuant (arXiv 2211.10438); by the columns' root mean squares instead of their maxima, since
    a few tokens have activations a thousand times those of others.
    """

    def __init__(self, weights: Sequence[Tensor], example: Tensor) -> None:
        """Quantize and pack the weights.

        Args:
            weights: [out, in] each.
            example: [n, in] inputs for calibration.
        """
        self._weights = list(weights)
        stacked = (
            weights[0].detach()
            if len(weights) == 1
            else torch.cat([weight.detach() for weight in weights])
        )
        # A norm instead of a root mean square: a common factor cancels, since every group has a
        # scale.
        input_size = torch.linalg.vector_norm(example.detach(), dim=0, dtype=torch.float32)
        weight_max = stacked.abs().amax(dim=0).float()
        input_size, weight_max = (
            # Columns of zeros would give infinite factors.
            t.clamp_min(max(t.mean().item() / 100, 1e-30))
            for t in (input_size, weight_max)
        )
        # Activations are multiplied by the factors, weights divided: their product stays the same.
        self._factors, self._ones = (weight_max / input_size).sqrt_(), torch.ones(len(stacked))
        self._forward = [
            QuantizedWeight(weight, _group_size(weight.shape[1]), self._factors)
            for weight in weights
        ]
        # The gradient of x sums over the outputs of all layers: one matmul with the stacked
        # weights.
        self._backward = QuantizedWeight(stacked, _group_size(*map(len, weights)), None)

    def forward(
        self, x: Tensor, lora_hiddens: Sequence[Tensor], lora_b: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """x Wᵀ + lora_hidden Bᵀ for every weight W.

        Args:
            x: [n, in].
            lora_hiddens: each adapter's hidden values [n, r]; rows may be strided.
            lora_b: each adapter's B [out, r].

        Returns:
            [n, out] for every weight.
        """
        quantized = _QuantizedInput([x], self._forward[0].group, self._factors)
        return tuple(
            # B [out, r] -> pairs (r / 2, out, 2)
            weight.matmul(quantized, hidden, b.reshape(len(b), -1, 2).transpose(0, 1))
            for weight, hidden, b in zip(self._forward, lora_hiddens, lora_b, strict=True)
        )

    def backward(self, grads: Sequence[Tensor], grad_hidden: Tensor, lora_a: Tensor) -> Tensor:
        """Gradient of x [n, in].

        Args:
            grads: gradients of the outputs [n, out].
            grad_hidden: gradients of all adapters' hidden values [n, R].
            lora_a: all A [R, in].
        """
        # VDPBF16PS multiplies pairs along the reduction axis, here the rank.
        pairs = lora_a.view(-1, 2, lora_a.shape[1]).transpose(1, 2)
        # No smoothing: the transposed weights were packed without factors.
        quantized = _QuantizedInput(grads, self._backward.group, self._ones)
        return self._backward.matmul(quantized, grad_hidden, pairs)


class QuantizedWeight:
    """A weight quantized to int8 and packed for the kernel.

    Attributes:
        width: output features of the matmul.
        depth: input features, over which the kernel sums.
        group: values that share a scale.
    """

    def __init__(self, weight: Tensor, group: int, factors: Tensor | None) -> None:
        """Quantize a weight.

        Args:
            weight: [width, depth], to be divided by factors; without factors, [depth, width].
            group: values that share a scale.
            factors: [depth].
        """
        self.width, self.depth = weight.shape if factors is not None else reversed(weight.shape)
        self.group = group
        # The kernel's own layout; its C code documents the order of panels.
        self._panels = weight.new_empty(self.width * self.depth, dtype=torch.int8)
        # VPDPBUSD multiplies unsigned by signed bytes: activations are stored with an offset, which
        # these sums take out again.
        self._corrections = weight.new_empty(self.width * self.depth // group, dtype=torch.int32)
        self._scales = self._corrections.new_empty(len(self._corrections), dtype=torch.float32)
        name, extra = (
            ("pack_transposed_weights", []) if factors is None else ("pack_weights", [factors])
        )
        build.call(
            _library(),
            name,
            weight,
            self.width,
            self.depth,
            group,
            *extra,
            self._panels,
            self._corrections,
            self._scales,
        )

    def matmul(self, x: _QuantizedInput, lora_hidden: Tensor, lora_pairs: Tensor) -> Tensor:
        """x times the weight, plus an adapter's contribution.

        Args:
            x: quantized input [n, depth].
            lora_hidden: [n, r].
            lora_pairs: the adapter's other matrix, as pairs [r / 2, width, 2].

        Returns:
            [n, width] in bfloat16.
        """
        out = lora_hidden.new_empty(len(lora_hidden), self.width)
        build.call(
            _library(),
            "int8_matmul",
            x.bytes,
            x.scales,
            len(lora_hidden),
            self.depth,
            self.group,
            self._panels,
            self._corrections,
            self._scales,
            self.width,
            lora_hidden,
            lora_hidden.stride(0),
            lora_hidden.shape[1],
            lora_pairs.contiguous(),
            out,
        )
        return out


class _QuantizedInput:
    """Arrays [n, any] side by side, times a factor per column, quantized to bytes and scales."""

    def __init__(self, arrays: Sequence[Tensor], group: int, factors: Tensor) -> None:
        depth, start = len(factors), 0
        self.bytes = arrays[0].new_empty(len(arrays[0]), depth, dtype=torch.uint8)
        self.scales = arrays[0].new_empty(len(arrays[0]), depth // group, dtype=torch.float32)
        for array in arrays:
            # The kernel gets the address of a slice's first element, and the row stride separately.
            build.call(
                _library(),
                "quantize_rows",
                array.contiguous(),
                *array.shape,
                group,
                factors[start:],
                self.bytes[:, start:],
                depth,
                self.scales[:, start // group :],
                depth // group,
            )
            start += array.shape[1]


def _group_size(*depths: int) -> int:
    # 32 divides every supported size, so there always is one.
    return next(group for group in GROUP_SIZES if not any(depth % group for depth in depths))


def _is_supported(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.is_contiguous()
        and weight.dim() == 2
        and not any(size % 32 for size in weight.shape)
        and not weight.requires_grad
    )


def _library() -> Any:
    return build.load_library("int8_linear")


# Outside inference mode, whose tensors cannot take part in autograd.
@cache
@torch.inference_mode(False)
def is_available() -> bool:
    """Whether the compiled kernel exists and is close to 16-bit matmuls on a small example."""
    if _library() is None:
        return False
    generator = torch.Generator().manual_seed(0)
    x, first, second, lora_a, lora_b = (
        torch.randn(shape, generator=generator).bfloat16()
        for shape in ((7, 64), (64, 64), (32, 64), (4, 64), (96, 2))
    )
    hidden, weights = x @ lora_a.T, (first, second)
    hiddens, bs = torch.split(hidden, 2, dim=1), torch.split(lora_b, [64, 32])
    linear = QuantizedFrozenLinear(weights, x)
    expected = [
        x.float() @ w.float().T + part.float() @ b.float().T
        for w, part, b in zip(weights, hiddens, bs, strict=True)
    ]
    grads = [out.bfloat16() for out in expected]
    expected_grad = (
        torch.cat(grads, dim=1).float() @ torch.cat(weights).float()
        + hidden.float() @ lora_a.float()
    )
    actual = [*linear.forward(x, hiddens, bs), linear.backward(grads, hidden, lora_a)]
    return all(
        bool((a.float() - b).norm() <= 0.03 * b.norm())
        for a, b in zip(actual, [*expected, expected_grad], strict=True)
    )
