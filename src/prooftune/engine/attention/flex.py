"""Attention over a packed batch by PyTorch's FlexAttention, which compiles one fused GPU kernel.

`flex_layout` says which query sees which key. Nothing is padded and no attention weights are saved.

On CPUs PyTorch has no kernel with gradients: there its reference implementation computes all
scores, which is for tests and comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from prooftune.engine.attention.flex_layout import FlexLayout

NAME = "shared-prefix-flex"
"""Name of this attention implementation in transformers."""


def flex_packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: FlexLayout,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention over a packed batch.

    Args:
        module: the layer, for its index.
        query: [1, query heads, tokens, size].
        key, value: [1, key heads, tokens, size].
        layout: where the prefix and the rows are.
        scaling: factor of the scores.
        softcap: bound of the scores, as in Gemma 2 (arXiv 2408.00118).
        window: positions that a sliding-window layer attends to. None: all.

    Returns:
        [1, tokens, query heads, size].
    """
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    mask = layout.block_mask(window, query.shape[2])
    if layout.prefix is not None:
        # One copy of the prefix for all rows of the batch.
        cached = layout.prefix[int(module.layer_idx)]  # type: ignore[arg-type]
        key, value = (torch.cat(pair, dim=2) for pair in zip(cached, (key, value), strict=True))
    query, key, value = (t.to(dtype) for t in (query, key, value))
    with torch.autocast(device, enabled=False):
        out = _attend(query, key, value, _score_mod(softcap, query.device), mask, scaling)
    return out.transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor] | None,
    mask: BlockMask,
    scaling: float,
) -> Tensor:
    if query.device.type == "cpu":
        from torch._higher_order_ops.flex_attention import flex_attention as reference

        score_mod = score_mod or _identity
        out: Tensor = reference(query, key, value, score_mod, mask.as_tuple(), scaling, {}, (), ())[
            0
        ]
        return out
    compiled: Tensor = _compiled()(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return compiled


@cache
def _compiled() -> Callable[..., Any]:
    """FlexAttention as one kernel for any number of tokens and blocks."""
    return torch.compile(flex_attention, dynamic=True)


def _identity(score: Tensor, *_: Tensor) -> Tensor:
    return score


@cache
def _score_mod(cap: float | None, device: torch.device) -> Callable[..., Tensor] | None:
    """The soft-capping of scores; the same function for all layers, which is compiled once.

    The cap is a tensor: a number would become symbolic with dynamic shapes, which the kernel does
    not accept.
    """
    if cap is None:
        return None
    bound = torch.tensor(cap, device=device)

    def soft_capped(score: Tensor, *_: Tensor) -> Tensor:
        return torch.tanh(score / bound) * bound

    return soft_capped
