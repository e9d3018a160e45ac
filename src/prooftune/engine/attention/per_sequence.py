"""Attention of long rows, one after another, by the library's GPU kernel: no padding, no weights
kept for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def per_sequence_sdpa(
    query: Tensor, key: Tensor, value: Tensor, shared: int, lengths: Sequence[int], scaling: float
) -> Tensor:
    """Attention of rows of these lengths in one line, each behind the `shared` tokens that the line
    begins with.

    The library's causal kernel keeps no weights and computes no more than half of them. The
    prefix's queries are computed again with every row, which costs little beside a long one; what
    they find is the same in each, and taken from the first.

    Args:
        query: [tokens, query heads, size].
        key, value: [tokens, key heads, size].
        shared: tokens of the prefix.
        lengths: tokens of each row.
        scaling: factor of the scores.

    Returns:
        [tokens, query heads, size].
    """
    found: list[Tensor] = []
    start = shared
    groups = query.shape[1] // key.shape[1]
    parts = [query, *(t.repeat_interleave(groups, dim=1) for t in (key, value))]
    for length in lengths:
        q, k, v = (
            torch.cat([t[:shared], t[start : start + length]]).transpose(0, 1)[None] for t in parts
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)[
            0
        ].transpose(0, 1)
        found.append(out[shared:] if found else out)
        start += length
    return torch.cat(found)
