"""Record the matmuls of some work while it runs: to count their operations, or to replay them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.kernels import attention, int8_linear
from prooftune.engine.kernels.lora_linear import LoraLinears

_A = torch.ops.aten
_MATMULS = {_A.mm, _A.bmm, _A.addmm, _A.addmm_, _A.baddbmm, _A.baddbmm_}
"""Operators that multiply their last two arguments."""
_ATTENTION = {  # number of matmuls in each
    _A._scaled_dot_product_flash_attention_for_cpu: 2,
    _A._scaled_dot_product_flash_attention_for_cpu_backward: 5,
}


def is_matmul(operator: Any) -> bool:
    """Whether the operator is a matmul of its last two arguments."""
    return operator.overloadpacket in _MATMULS


def _flash_attention(
    inputs: Sequence[Tensor], angles: Sequence[Tensor], layout: PackedLayout, *_: Any
) -> float:
    pairs = layout.prefix_length**2 / 2 + sum(
        n * (layout.prefix_length + n / 2) for n in layout.lengths
    )
    return 2 * 2 * pairs * inputs[0].shape[1] * inputs[0].shape[2]


def _flash_attention_backward(
    inputs: Sequence[Tensor], out: Tensor, logsumexp: Tensor, grad: Tensor, layout: Any
) -> float:
    lengths = layout.lengths[: layout.sequences + 1]
    pairs = lengths[0] ** 2 / 2 + sum(n * (lengths[0] + n / 2) for n in lengths[1:])
    return 5 * 2 * pairs * out.shape[1] * out.shape[2]


def _int8_matmul(
    weight: int8_linear.QuantizedWeight, x: Any, lora_hidden: Tensor, lora_pairs: Tensor
) -> float:
    return 2 * len(lora_hidden) * weight.width * (weight.depth + lora_hidden.shape[1])


def _lora_forward(layers: LoraLinears, with_outputs: bool) -> float:
    n, depth = layers.x.shape
    return (
        2
        * n
        * sum(
            len(a) * depth + with_outputs * len(b) * (depth + len(a))
            for a, b in zip(layers.lora_a, layers.lora_b, strict=True)
        )
    )


def _lora_backward(
    layers: LoraLinears, lora_hidden: Tensor, grads: Sequence[Tensor], with_grad_x: bool
) -> float:
    n, depth = layers.x.shape
    return (
        2
        * n
        * sum(
            len(a) * (2 * len(b) + depth) + with_grad_x * depth * (len(b) + len(a))
            for a, b in zip(layers.lora_a, layers.lora_b, strict=True)
        )
    )


_COMPILED: list[tuple[Any, str, Callable[..., float]]] = [
    (attention, "compiled_forward", _flash_attention),
    (attention, "compiled_backward", _flash_attention_backward),
    (int8_linear.QuantizedWeight, "matmul", _int8_matmul),
    (LoraLinears, "compiled_forward", _lora_forward),
    (LoraLinears, "compiled_backward", _lora_backward),
]
"""Functions that call compiled kernels: owner, name, and the operations of a call."""


class MatmulRecorder(TorchDispatchMode):  # type: ignore[misc]
    """Operations of matmuls and attention: 2 per multiply-add, in int8 as well.

    Compiled kernels count too: attention by the tokens it attends to. Its calls are counted and not
    recorded.

    Attributes:
        operations: number of operations.
        calls: matmuls with their arguments, if they are recorded.
    """

    def __init__(self, record: bool = False) -> None:
        super().__init__()
        self.operations = 0.0
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._record = record
        self._originals: list[Callable[..., Any]] = []
        self._depth = 0

    def __enter__(self) -> MatmulRecorder:
        self._depth += 1
        if self._depth == 1:
            self._originals = [getattr(owner, name) for owner, name, _ in _COMPILED]
            for (owner, name, operations), original in zip(_COMPILED, self._originals, strict=True):
                setattr(owner, name, self._recorded(owner, original, operations))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._depth -= 1
        if not self._depth:
            for (owner, name, _), original in zip(_COMPILED, self._originals, strict=True):
                setattr(owner, name, original)

    def _recorded(
        self, owner: Any, original: Callable[..., Any], operations: Callable[..., float]
    ) -> Callable[..., Any]:
        def recorded(*args: Any, **options: Any) -> Any:
            self.operations += operations(*args, **options)
            if self._record and owner is not attention:
                self.calls.append((original, args, options))
            return original(*args, **options)

        return recorded

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, packet = kwargs or {}, operator.overloadpacket
        if is_matmul(operator):
            left, right = args[-2:]
            self.operations += 2 * left.numel() * right.shape[-1]
            if self._record:
                self.calls.append((operator, args, kwargs))
        elif packet in _ATTENTION:
            query, key = (
                args[:2] if packet is _A._scaled_dot_product_flash_attention_for_cpu else args[1:3]
            )
            self.operations += _ATTENTION[packet] * 2 * query.numel() * key.shape[-2]
        elif packet is torch.ops.mkldnn._linear_pointwise:
            out = operator(*args, **kwargs)
            self.operations += 2 * args[0].shape[-1] * out.numel()
            return out
        elif torch.is_inference_mode_enabled():  # composite operators are not decomposed yet
            with self:
                out = operator.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return operator(*args, **kwargs)

    def replay(self) -> None:
        """Compute the recorded matmuls once more, with the same arrays."""
        with torch.no_grad():
            for operator, args, options in self.calls:
                operator(*args, **options)
