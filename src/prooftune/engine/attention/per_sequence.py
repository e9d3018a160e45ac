"""Attention of long sequences one at a time by PyTorch's GPU kernel: no padding, nothing saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def per_sequence_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_length: int,
    lengths: Sequence[int],
    scaling: float,
) -> Tensor:
    """Attention of packed sequences, each of which sees the shared prefix and, causally, itself.

    PyTorch's causal kernel saves no attention weights and computes at most half of them. The
    prefix's queries are computed again with every sequence, which costs little beside a long one;
    their output is the same each time and taken from the first.

    Args:
        query: [tokens, query heads, size].
        key, value: [tokens, key heads, size].
        prefix_length: tokens of the prefix at the start.
        lengths: tokens of each sequence.
        scaling: factor of the scores.

    Returns:
        [tokens, query heads, size].
    """
    outputs: list[Tensor] = []
    start = prefix_length
    groups = query.shape[1] // key.shape[1]
    # The kernel takes as many key heads as query heads (no GQA).
    packed = [query, *(t.repeat_interleave(groups, dim=1) for t in (key, value))]
    for length in lengths:
        q, k, v = (
            torch.cat([t[:prefix_length], t[start : start + length]]).transpose(0, 1)[None]
            for t in packed
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)[
            0
        ].transpose(0, 1)
        # The prefix's own output is the same for every sequence: taken from the first.
        outputs.append(out[prefix_length:] if outputs else out)
        start += length
    return torch.cat(outputs)
