"""The matrix products of some work, seen while it is done: to count their operations, or to do them
again alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.kernels import attention, int8_linear
from prooftune.engine.kernels.lora_linear import LoraLinears

_A = torch.ops.aten
_FACTORS = {_A.mm, _A.bmm, _A.addmm, _A.addmm_, _A.baddbmm, _A.baddbmm_}
"""Operators whose last two arguments are multiplied."""
_ATTENTION = {  # products in each
    _A._scaled_dot_product_flash_attention_for_cpu: 2,
    _A._scaled_dot_product_flash_attention_for_cpu_backward: 5,
}


def are_products(operator: Any) -> bool:
    """Whether the operator is one of matrix products whose last two arguments are the factors."""
    return operator.overloadpacket in _FACTORS


def _of_attention(
    query: Tensor, key: Tensor, value: Tensor, blocks: PackedLayout, *others: Any
) -> float:
    seen = blocks.prefix**2 / 2 + sum(n * (blocks.prefix + n / 2) for n in blocks.lengths)
    products = 7 if torch.is_grad_enabled() and query.requires_grad else 2
    return products * 2 * seen * query.shape[1] * query.shape[2]


def _in_int8(weight: int8_linear.Weight, given: Any, low: Tensor, up: Tensor) -> float:
    return 2 * len(low) * weight.width * (weight.depth + low.shape[1])


def _adapted(layers: LoraLinears, wide: bool) -> float:
    n, depth = layers.x.shape
    return (
        2
        * n
        * sum(
            len(a) * depth + wide * len(b) * (depth + len(a))
            for a, b in zip(layers.down, layers.up, strict=True)
        )
    )


def _adapted_backward(
    layers: LoraLinears, low: Tensor, grads: Sequence[Tensor], wide: bool
) -> float:
    n, depth = layers.x.shape
    return (
        2
        * n
        * sum(
            len(a) * (2 * len(b) + depth) + wide * depth * (len(b) + len(a))
            for a, b in zip(layers.down, layers.up, strict=True)
        )
    )


_COMPILED: list[tuple[Any, str, Callable[..., float]]] = [
    (attention, "attend", _of_attention),
    (int8_linear.Weight, "product", _in_int8),
    (LoraLinears, "_forward", _adapted),
    (LoraLinears, "_backward", _adapted_backward),
]
"""Whose functions do products without PyTorch, their names, and the operations of a call."""


class Counted(TorchDispatchMode):  # type: ignore[misc]
    """Operations of products and of attention: 2 for a multiplication and an addition, in 8 bits as
    well. Compiled code counts too: attention with what its tokens see, and its backward pass with
    it where gradients are asked for. Attention is not kept.

    Attributes:
        operations: so far.
        calls: the products with their arguments, if they are kept.
    """

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.operations = 0.0
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._keep = keep
        self._own: list[Callable[..., Any]] = []
        self._deep = 0

    def __enter__(self) -> Counted:
        self._deep += 1
        if self._deep == 1:
            self._own = [getattr(owner, name) for owner, name, _ in _COMPILED]
            for (owner, name, operations), own in zip(_COMPILED, self._own, strict=True):
                setattr(owner, name, self._seen(own, operations))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._deep -= 1
        if not self._deep:
            for (owner, name, _), own in zip(_COMPILED, self._own, strict=True):
                setattr(owner, name, own)

    def _seen(
        self, own: Callable[..., Any], operations: Callable[..., float]
    ) -> Callable[..., Any]:
        def seen(*args: Any, **options: Any) -> Any:
            self.operations += operations(*args, **options)
            if self._keep and operations is not _of_attention:
                self.calls.append((own, args, options))
            return own(*args, **options)

        return seen

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, packet = kwargs or {}, operator.overloadpacket
        if are_products(operator):
            left, right = args[-2:]
            self.operations += 2 * left.numel() * right.shape[-1]
            if self._keep:
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
        elif torch.is_inference_mode_enabled():  # what is put together of others comes whole then
            with self:
                whole = operator.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        return operator(*args, **kwargs)

    def again(self) -> None:
        """Compute the products once more, with the arrays of that time."""
        with torch.no_grad():
            for operator, args, options in self.calls:
                operator(*args, **options)
