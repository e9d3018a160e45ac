"""Rotary positions (RoPE, arXiv 2104.09864) turned in one or two passes over memory instead of
five, and as many back instead of eight (`pointwise`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.kernels import pointwise

NAME = "apply_rotary_pos_emb"
"""What transformers calls the function in each model's own module."""


@contextmanager
def patch_rope_inplace(model: nn.Module) -> Iterator[None]:
    """Let the model's layers turn queries and keys by `_Turned` for a while, where that is what
    they do themselves.

    The function that is replaced is shared by all models of the architecture, whoever uses them
    meanwhile: to them it computes the same.
    """
    homes = {
        sys.modules[type(module).__module__]
        for module in model.modules()
        if "q_proj" in vars(module)["_modules"]
    }
    replaced: list[tuple[ModuleType, Callable[..., Any]]] = []
    for home in homes:
        own = getattr(home, NAME, None)
        if callable(own) and not hasattr(own, "replaces") and _is_turning(own):
            setattr(home, NAME, _replacing(own))
            replaced.append((home, own))
    try:
        yield
    finally:
        for home, own in replaced:
            setattr(home, NAME, own)


class _Turned(torch.autograd.Function):
    """x · cos + (-second half of x, first half of x) · sin; x [..., heads, tokens, size], cos and
    sin [..., 1, tokens, size]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return pointwise.apply_rope(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return pointwise.apply_rope(grads[0], cos, sin, backward=True), None, None


def _replacing(own: Callable[..., Any]) -> Callable[..., Any]:
    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *others: Any, **options: Any) -> Any:
        sizes = {t.shape[-1] for t in (q, k, cos, sin)}
        if (
            others
            or options
            or cos.dim() != 3
            or len(sizes) > 1
            or len({t.dtype for t in (q, k, cos, sin)}) > 1
        ):
            return own(q, k, cos, sin, *others, **options)
        cos, sin = cos[:, None], sin[:, None]
        return _Turned.apply(q, cos, sin), _Turned.apply(k, cos, sin)  # type: ignore[no-untyped-call]

    turn.replaces = own  # type: ignore[attr-defined]
    return turn


def _is_turning(own: Callable[..., Any]) -> bool:
    """Whether a function turns a few vectors as `_Turned` does."""
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=random) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=random) for _ in range(2))
    try:
        wanted, got = own(q, k, cos, sin), _replacing(own)(q, k, cos, sin)
    except (TypeError, RuntimeError, ValueError):  # another signature
        return False
    alike = (
        a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
        for a, b in zip(wanted, got, strict=False)
    )
    return len(wanted) == len(got) and all(alike)
