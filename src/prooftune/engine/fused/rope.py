"""Rotary position embeddings (RoPE, arXiv 2104.09864) in two passes over memory, or none.

transformers' own function takes five passes forward and eight backward; see `kernels.pointwise`.
Compiled attention rotates queries and keys itself (`attention.rope`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention.rope import DeferredRope, apply_rope, can_defer

FUNCTION_NAME = "apply_rotary_pos_emb"
"""Name of the RoPE function in each model's transformers module."""


@contextmanager
def patch_rope_inplace(model: nn.Module) -> Iterator[None]:
    """Replace the RoPE function of the model's architecture for the duration of the block.

    It is replaced only if it computes what `apply_rope` does. All models of the architecture share
    it; for the others it still computes the same.
    """
    modules = {
        # Each architecture of transformers has its own copy of the function in its own module.
        sys.modules[type(module).__module__]
        for module in model.modules()
        if "q_proj" in vars(module)["_modules"]
    }
    replaced: list[tuple[ModuleType, Callable[..., Any]]] = []
    for module in modules:
        original = getattr(module, FUNCTION_NAME, None)
        # `replaces` marks our own function: nested use leaves it in place.
        if callable(original) and not hasattr(original, "replaces") and _is_standard_rope(original):
            setattr(module, FUNCTION_NAME, fused_rope(original))
            replaced.append((module, original))
    try:
        yield
    finally:
        for module, original in replaced:
            setattr(module, FUNCTION_NAME, original)


def fused_rope(original: Callable[..., Any]) -> Callable[..., Any]:
    """A replacement for transformers' RoPE function; unusual arguments go to the original."""

    def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *others: Any, **options: Any) -> Any:
        sizes = {t.shape[-1] for t in (q, k, cos, sin)}
        if (
            others
            or options
            or cos.dim() != 3
            or len(sizes) > 1
            or len({t.dtype for t in (q, k, cos, sin)}) > 1
        ):
            return original(q, k, cos, sin, *others, **options)
        # One angle for all heads of a token.
        angles = cos[:, None], sin[:, None]
        if can_defer(q, *angles):
            return DeferredRope.of(q, angles), DeferredRope.of(k, angles)
        return apply_rope(q, *angles), apply_rope(k, *angles)

    rope.replaces = original  # type: ignore[attr-defined]
    return rope


def _is_standard_rope(original: Callable[..., Any]) -> bool:
    """Whether a function gives what `apply_rope` does on a few vectors."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    try:
        expected, actual = original(q, k, cos, sin), fused_rope(original)(q, k, cos, sin)
    except (TypeError, RuntimeError, ValueError):  # another signature
        return False
    close = (
        a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
        for a, b in zip(expected, actual, strict=False)
    )
    return len(expected) == len(actual) and all(close)
