"""A stand-in for FlashAttention: computes by SDPA, and refuses 4D masks, as unpadding does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "padding-masks-only"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    if attention_mask is not None and attention_mask.dim() != 2:
        raise IndexError("too many indices for tensor: unpadding takes a 2D mask")
    groups = query.shape[1] // key.shape[1]
    length, total = query.shape[2], key.shape[2]
    allowed = torch.ones(length, total, dtype=torch.bool).tril(total - length)[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask.bool()[:, None, None, -total:]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed, scale=scaling
    )
    return out.transpose(1, 2), None


def register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
