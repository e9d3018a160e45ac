"""Attention that sees a prefix shared by all rows, or by groups of them, without copying it to the
rows.

Registered with transformers under the name `NAME`, it is what the layers of any model call. Over
the prefix the queries of all rows that see it stand beside each other; over its own keys each row
is by itself. Either one softmax runs over both, or both are computed apart and put together by
their weights. Numerically this is ordinary attention over prefix and row. Rows in one line, as
training has them, are in `line_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.attention.masks import AttentionContext, KeysValues
from prooftune.engine.attention.packed import packed_attention

NAME = "shared-prefix"

QUERY_CHUNK = 256
"""Queries of a row that are gone through at a time where no gradients are needed, if it has twice
as many."""

_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""The kernel of `scaled_dot_product_attention` on CPUs, which says beside its output how much
weight there was (the logarithm of the sum of exponentials), so that what is seen in two parts can
be put together."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    sight: AttentionContext | PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer.

    Args:
        module: the layer, for its number.
        query: [rows, heads, queries, size]; heads are a multiple of the key heads.
        key, value: of the rows themselves, [rows, key heads, keys, size].
        attention_mask: the library's additive mask [rows, 1, queries, keys], looked at where no
            `sight` is given: plain use of the model outside the engine.
        scaling: factor of the scores.
        dropout: share of the weights left out in training.
        softcap: bound of the scores, as in Gemma 2 (arXiv 2408.00118).
        sliding_window: positions that this layer sees; None: all.
        sight: what may be seen; `PackedLayout` where the rows stand in one line.

    Returns:
        [rows, queries, heads, size], and None for the weights, which are not kept.
    """
    if isinstance(sight, PackedLayout):
        return packed_attention(query, key, value, sight, scaling, softcap, sliding_window), None
    squeezed = sight.squeezed if sight is not None else None
    if squeezed is not None and sight is not None:
        query = squeezed.set_out(query)
        key, value = (squeezed.set_out(t) if sight.own_keys else t for t in (key, value))
    rows, heads, queries, size = query.shape
    asked = query.reshape(rows, key.shape[1], heads // key.shape[1] * queries, size)
    prefix = None
    if sight is not None and sight.prefix is not None:
        prefix = sight.prefix[int(module.layer_idx)]  # type: ignore[arg-type]
    dropout = dropout if module.training else 0.0
    if (
        sight is not None
        and not softcap
        and not dropout
        and _flash_fits(asked, key, value, *(prefix or ()))
    ):
        out = _in_pieces(asked, key, value, prefix, sight, sliding_window, scaling)
    else:
        masks = (
            (attention_mask, None) if sight is None else sight.masks(sliding_window, query.dtype)
        )
        out = _at_once(asked, key, value, prefix, sight, masks, scaling, softcap, dropout)
    out = out.reshape(rows, heads, queries, size).transpose(1, 2)
    return (out if squeezed is None else squeezed.line(out)), None


def _flash_fits(*tensors: Tensor) -> bool:
    first = tensors[0]
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return (
        _FLASH is not None
        and first.device.type == "cpu"
        and not learns
        and all(t.dtype == first.dtype for t in tensors)
    )


def _in_pieces(
    asked: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: KeysValues | None,
    sight: AttentionContext,
    window: int | None,
    scaling: float,
) -> Tensor:
    """Attention over the rows themselves and over the prefix, each in pieces that fit into the
    processor's cache (FlashAttention, Dao et al. 2022, arXiv 2205.14135), put together by their
    weights."""
    out, weight = _over_own(asked, key, value, sight, window, scaling)
    if prefix is None:
        return out
    prefix_mask = sight.prefix_mask(window, asked.dtype, asked.shape[2] // sight.allowed.shape[1])
    other, before = _FLASH(
        sight.fold_into_groups(asked), *prefix, attn_mask=prefix_mask, scale=scaling
    )[:2]
    other, before = (sight.unfold_from_groups(t, len(asked)) for t in (other, before[..., None]))
    share = torch.sigmoid(weight[..., None] - before)
    return torch.lerp(other.float(), out.float(), share).to(asked.dtype)


def _over_own(
    asked: Tensor,
    key: Tensor,
    value: Tensor,
    sight: AttentionContext,
    window: int | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """What queries find in their own rows, and the logarithm of how much weight there was.

    A query of a long row looks at no key that comes after it: those of a piece of queries are left
    out.
    """
    rows, heads, queries, keys = *asked.shape[:2], sight.allowed.shape[1], key.shape[2]
    repeats = asked.shape[2] // queries
    if queries < 2 * QUERY_CHUNK:
        whole = sight.expanded_self_mask(window, asked.dtype, repeats)
        return _FLASH(asked, key, value, attn_mask=whole, scale=scaling)[:2]  # type: ignore[no-any-return]
    mask = sight.masks(window, asked.dtype)[0]
    out, weight = torch.empty_like(asked), asked.new_empty(asked.shape[:3], dtype=torch.float32)
    parts = [t.view(rows, heads, repeats, queries, -1) for t in (asked, out, weight)]
    for first in range(0, queries, QUERY_CHUNK):
        end = min(queries, first + QUERY_CHUNK)
        seen = keys - queries + end
        piece, to, how_much = (t[:, :, :, first:end] for t in parts)
        near = mask[:, :, first:end, :seen].repeat(1, 1, repeats, 1)
        found, weights = _FLASH(
            piece.flatten(2, 3), key[:, :, :seen], value[:, :, :seen], attn_mask=near, scale=scaling
        )[:2]
        to.copy_(found.view(to.shape))
        how_much.copy_(weights.view(how_much.shape))
    return out, weight


def _at_once(
    asked: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: KeysValues | None,
    sight: AttentionContext | None,
    masks: tuple[Tensor | None, Tensor | None],
    scaling: float,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """The same with all weights there at one time, for what the kernel does not know: gradients,
    soft-capping, dropout."""
    rows, heads, seen = len(asked), asked.shape[1], 0
    own_mask, prefix_mask = masks
    asked = asked * scaling
    scores = torch.matmul(asked, key.transpose(2, 3))
    if prefix is not None and sight is not None:
        seen = prefix[0].shape[2]
        # One product for all rows that see the same.
        before = torch.matmul(sight.fold_into_groups(asked), prefix[0].transpose(2, 3))
        scores = torch.cat([sight.unfold_from_groups(before, rows), scores], dim=-1)
        own_mask = None if own_mask is None else _joined(prefix_mask, own_mask, seen)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if own_mask is not None:
        queries = own_mask.shape[2]
        scores = (
            scores.view(rows, heads, -1, queries, scores.shape[-1]) + own_mask[:, :, None]
        ).view(scores.shape)
    # On 16-bit input the softmax computes in float32 by itself and rounds once.
    weights = nn.functional.dropout(torch.softmax(scores, dim=-1), p=dropout)
    out = torch.matmul(weights[..., seen:], value)
    if prefix is not None and sight is not None:
        out = out + sight.unfold_from_groups(
            torch.matmul(sight.fold_into_groups(weights[..., :seen]), prefix[1]), rows
        )
    return out


def options(sight: AttentionContext | PackedLayout) -> dict[str, Any]:
    """What a model's body takes for its layers to look through `sight`. The mask is there so that
    none is made."""
    return {
        "sight": sight,
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool),
        "use_cache": False,
    }


def register() -> None:
    """Make the attention known to transformers, with the masks of the eager one for use outside the
    engine."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


def _joined(prefix_mask: Tensor | None, own_mask: Tensor, seen: int) -> Tensor:
    if prefix_mask is None:
        prefix_mask = own_mask.new_zeros(*own_mask.shape[:3], seen)
    rows = max(len(prefix_mask), len(own_mask))
    return torch.cat(
        [prefix_mask.expand(rows, -1, -1, -1), own_mask.expand(rows, -1, -1, -1)], dim=-1
    )
