"""RoPE (rotary position embeddings, arXiv 2104.09864) with gradients, at once or deferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.autograd import SavedTensors
from prooftune.engine.kernels import attention, pointwise


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: SavedTensors, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return pointwise.apply_rope(x, cos, sin)

    @staticmethod
    def backward(ctx: SavedTensors, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return pointwise.apply_rope(grads[0], cos, sin, backward=True), None, None


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x · cos + (-second half of x, first half of x) · sin.

    Args:
        x: [..., heads, tokens, size].
        cos, sin: [..., 1, tokens, size].
    """
    out: Tensor = _Rope.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out


class DeferredRope(Tensor):
    """Queries or keys to which RoPE is applied when a value is first read.

    Compiled attention reads `unrotated` and rotates while it packs, which saves two passes over
    memory in each direction. To all other code this is the rotated tensor: every PyTorch function
    gets that instead.

    Attributes:
        unrotated: [1, heads, tokens, size].
        angles: cos and sin, [1, 1, tokens, size]; one object for queries and keys.
    """

    unrotated: Tensor
    angles: tuple[Tensor, Tensor]
    _rotated: Tensor | None

    @staticmethod
    def of(unrotated: Tensor, angles: tuple[Tensor, Tensor]) -> DeferredRope:
        """Defer RoPE."""
        # The subclass wraps an empty tensor: the rotated one is computed only where it is read.
        deferred: DeferredRope = Tensor._make_subclass(DeferredRope, _NOTHING)
        deferred.unrotated, deferred.angles, deferred._rotated = unrotated, angles, None
        return deferred

    def rotated(self) -> Tensor:
        """The rotated tensor."""
        # Once: what is written in place is there when it is read again.
        if self._rotated is None:
            self._rotated = apply_rope(self.unrotated, *self.angles)
        return self._rotated

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = {name: _rotate(value) for name, value in (kwargs or {}).items()}
        return function(*map(_rotate, args), **named)


_NOTHING = torch.empty(0)


def _rotate(argument: Any) -> Any:
    if isinstance(argument, DeferredRope):
        return argument.rotated()
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_rotate, argument))
    return argument


def can_defer(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the compiled attention could take queries or keys with their RoPE.

    Args:
        x: [rows, heads, tokens, size].
        cos, sin: [rows, 1, tokens, size].
    """
    # Few tokens are those of a decode step, where attention is not the compiled one.
    return (
        x.numel() >= pointwise.MIN_ELEMENTS
        and x.device.type == "cpu"
        and len(x) == 1
        and all(t.shape == (1, 1, *x.shape[2:]) and t.is_contiguous() for t in (cos, sin))
        and x.dtype == cos.dtype == sin.dtype
        and attention.is_available(x.shape[-1], x.dtype)
    )
