"""The matrix products of some work, seen while it is done: to count their operations, or to do them again alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prooftune.engine import compiled_attention, int8_products
from prooftune.engine.blocks import Blocks

_A = torch.ops.aten
_FACTORS = {_A.mm, _A.bmm, _A.addmm, _A.addmm_, _A.baddbmm, _A.baddbmm_}
"""Operators whose last two arguments are multiplied."""
_ATTENTION = {  # products in each
    _A._scaled_dot_product_flash_attention_for_cpu: 2, _A._scaled_dot_product_flash_attention_for_cpu_backward: 5}


def are_products(operator: Any) -> bool:
    """Whether the operator is one of matrix products whose last two arguments are the factors."""
    return operator.overloadpacket in _FACTORS


class Counted(TorchDispatchMode):  # type: ignore[misc]
    """Operations of products and of attention: 2 for a multiplication and an addition, in 8 bits as well. Compiled attention counts
    with what its tokens see, and its backward pass with it where gradients are asked for; it is not kept.

    Attributes:
        operations: so far.
        calls: the products with their arguments, if they are kept.
    """

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self.operations = 0.0
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self._keep = keep
        self._own: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = []

    def __enter__(self) -> Counted:
        self._own.append((compiled_attention.attend, int8_products.Weight.product))
        if len(self._own) == 1:
            compiled_attention.attend = self._attended

            def product(*args: Any) -> Tensor:
                return self._in_int8(*args)

            int8_products.Weight.product = product  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        compiled_attention.attend, int8_products.Weight.product = self._own.pop()  # type: ignore[method-assign]

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, *others: Any) -> Tensor:
        seen = blocks.prefix**2 / 2 + sum(n * (blocks.prefix + n / 2) for n in blocks.lengths)
        products = 7 if torch.is_grad_enabled() and query.requires_grad else 2
        self.operations += products * 2 * seen * query.shape[1] * query.shape[2]
        return self._own[0][0](query, key, value, blocks, *others)

    def _in_int8(self, weight: int8_products.Weight, given: Any, low: Tensor, up: Tensor) -> Tensor:
        self.operations += 2 * len(low) * weight.width * (weight.depth + low.shape[1])
        if self._keep:
            self.calls.append((self._own[0][1], (weight, given, low, up), {}))
        return self._own[0][1](weight, given, low, up)

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, operator.overloadpacket
        if are_products(operator):
            left, right = args[-2:]
            self.operations += 2 * left.numel() * right.shape[-1]
            if self._keep:
                self.calls.append((operator, args, kwargs))
        elif packet in _ATTENTION:
            query, key = args[:2] if packet is _A._scaled_dot_product_flash_attention_for_cpu else args[1:3]
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
