"""Attention over a prefix shared by all rows, or by groups of rows, without copying it to the rows.

Registered with transformers under the name `NAME`, so the layers of any model can call it. Over the
prefix, the queries of all rows that see it form one matmul; over its own keys, each row is computed
separately. Either one softmax covers both parts, or both are computed apart and merged by their
log-sum-exp. Numerically this is ordinary causal attention over prefix and row. Packed batches, as
in training, go to `packed`. Which tokens a query sees is decided in `packed_layout` for packed
batches and in `padded_masks` for padded ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention.packed import packed_attention
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.attention.padded_masks import AttentionContext, KeysValues

NAME = "shared-prefix"
"""Name of this attention implementation in transformers."""

QUERY_CHUNK = 256
"""Queries of a row computed at a time without gradients, if the row has at least twice as many."""

_FLASH: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""PyTorch's CPU kernel of `scaled_dot_product_attention`.

It also returns the log-sum-exp of the scores, with which two partial results can be merged.
"""


def shared_prefix_attention(
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
    attention_context: AttentionContext | PackedLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer, in the signature that transformers expects.

    Args:
        module: the layer, for its index.
        query: [rows, heads, queries, size]; heads are a multiple of the key heads (GQA).
        key, value: the rows' own, [rows, key heads, keys, size].
        attention_mask: transformers' additive mask [rows, 1, queries, keys]. Used only without an
            `attention_context`, when the model is called outside the engine.
        scaling: factor of the scores.
        dropout: probability of dropping an attention weight in training.
        softcap: bound of the scores, as in Gemma 2 (arXiv 2408.00118).
        sliding_window: positions that this layer attends to. None: all.
        attention_context: masks and shared prefix; a `PackedLayout` for packed batches.

    Returns:
        [rows, queries, heads, size], and None for the attention weights, which are not kept.
    """
    context = attention_context
    if isinstance(context, PackedLayout):
        return packed_attention(query, key, value, context, scaling, softcap, sliding_window), None
    unpadded = context.unpadded if context is not None else None
    if unpadded is not None and context is not None:
        query = unpadded.pad_heads(query)
        key, value = (unpadded.pad_heads(t) if context.keys_unpadded else t for t in (key, value))
    rows, heads, num_queries, size = query.shape
    # The query heads of one key head (GQA) are concatenated along the query axis.
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1] * num_queries, size)
    prefix = None
    if context is not None and context.prefix is not None:
        prefix = context.prefix[int(module.layer_idx)]  # type: ignore[arg-type]
    dropout = dropout if module.training else 0.0
    if (
        context is not None
        and not softcap
        and not dropout
        and _flash_is_supported(grouped, key, value, *(prefix or ()))
    ):
        out = chunked_attention(grouped, key, value, prefix, context, sliding_window, scaling)
    else:
        masks = (
            (attention_mask, None)
            if context is None
            else context.masks(sliding_window, query.dtype)
        )
        out = full_attention(grouped, key, value, prefix, context, masks, scaling, softcap, dropout)
    out = out.reshape(rows, heads, num_queries, size).transpose(1, 2)
    return (out if unpadded is None else unpadded.unpad(out)), None


def _flash_is_supported(*tensors: Tensor) -> bool:
    first = tensors[0]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return (
        _FLASH is not None
        and first.device.type == "cpu"
        and not needs_grad
        and all(t.dtype == first.dtype for t in tensors)
    )


def chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: KeysValues | None,
    context: AttentionContext,
    window: int | None,
    scaling: float,
) -> Tensor:
    """Attention over own keys and over the prefix, each in blocks that fit the CPU's cache.

    FlashAttention (Dao et al. 2022, arXiv 2205.14135) computes each part; the parts are merged by
    their log-sum-exp. For inference only.

    Args:
        query: [rows, key heads, query heads per key head x queries, size].
        key, value: [rows, key heads, keys, size].
        prefix: keys and values of this layer's prefix.
        context: masks and prefix groups.
        window: positions that a sliding-window layer attends to. None: all.
        scaling: factor of the scores.

    Returns:
        Like `query`.
    """
    out, logsumexp = _self_attention(query, key, value, context, window, scaling)
    if prefix is None:
        return out
    # Queries per row and key head = query heads per key head x new tokens.
    prefix_mask = context.prefix_mask(
        window, query.dtype, query.shape[2] // context.allowed.shape[1]
    )
    # One call for all rows of a group: the prefix's keys are read once.
    prefix_out, prefix_logsumexp = _FLASH(
        context.fold_into_groups(query), *prefix, attn_mask=prefix_mask, scale=scaling
    )[:2]
    prefix_out, prefix_logsumexp = (
        context.unfold_from_groups(t, len(query)) for t in (prefix_out, prefix_logsumexp[..., None])
    )
    # Weight of the own part: exp(a) / (exp(a) + exp(b)) = sigmoid(a - b) for the log-sum-exps.
    share = torch.sigmoid(logsumexp[..., None] - prefix_logsumexp)
    # Merged in float32 and rounded once.
    return torch.lerp(prefix_out.float(), out.float(), share).to(query.dtype)


def _self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: AttentionContext,
    window: int | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of each row to its own keys, and the log-sum-exp of the scores.

    Long rows are computed in chunks of queries: keys after a chunk are skipped (causal mask).
    """
    rows, heads, queries, keys = *query.shape[:2], context.allowed.shape[1], key.shape[2]
    repeats = query.shape[2] // queries
    if queries < 2 * QUERY_CHUNK:
        full_mask = context.expanded_self_mask(window, query.dtype, repeats)
        result: tuple[Tensor, Tensor] = _FLASH(
            query, key, value, attn_mask=full_mask, scale=scaling
        )[:2]
        return result
    mask = context.masks(window, query.dtype)[0]
    out, logsumexp = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    views = [t.view(rows, heads, repeats, queries, -1) for t in (query, out, logsumexp)]
    for first in range(0, queries, QUERY_CHUNK):
        end = min(queries, first + QUERY_CHUNK)
        # The last query attends to all keys, so the query before `end` attends to this many.
        visible = keys - queries + end
        chunk, chunk_out, chunk_logsumexp = (t[:, :, :, first:end] for t in views)
        # The mask repeats for the query heads of a key head (GQA).
        chunk_mask = mask[:, :, first:end, :visible].repeat(1, 1, repeats, 1)
        chunk_result, logsums = _FLASH(
            chunk.flatten(2, 3),
            key[:, :, :visible],
            value[:, :, :visible],
            attn_mask=chunk_mask,
            scale=scaling,
        )[:2]
        chunk_out.copy_(chunk_result.view(chunk_out.shape))
        chunk_logsumexp.copy_(logsums.view(chunk_logsumexp.shape))
    return out, logsumexp


def full_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: KeysValues | None,
    context: AttentionContext | None,
    masks: tuple[Tensor | None, Tensor | None],
    scaling: float,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """The same with all attention weights in memory, for gradients, soft-capping and dropout.

    Arguments and result as for `chunked_attention`; `masks` are those over the own keys and over
    the prefix.
    """
    rows, heads, prefix_length = len(query), query.shape[1], 0
    own_mask, prefix_mask = masks
    # Scaling the queries is cheaper than scaling the scores.
    query = query * scaling
    scores = torch.matmul(query, key.transpose(2, 3))  # (rows, key heads, queries, keys)
    if prefix is not None and context is not None:
        prefix_length = prefix[0].shape[2]
        # One matmul for all rows that see the same prefix.
        prefix_scores = torch.matmul(context.fold_into_groups(query), prefix[0].transpose(2, 3))
        # One softmax over prefix and own keys.
        scores = torch.cat([context.unfold_from_groups(prefix_scores, rows), scores], dim=-1)
        own_mask = None if own_mask is None else _concat_masks(prefix_mask, own_mask, prefix_length)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if own_mask is not None:
        queries = own_mask.shape[2]
        scores = (
            scores.view(rows, heads, -1, queries, scores.shape[-1]) + own_mask[:, :, None]
        ).view(scores.shape)
    # On 16-bit input the softmax computes in float32 by itself and rounds once.
    weights = nn.functional.dropout(torch.softmax(scores, dim=-1), p=dropout)
    # The softmax ran over prefix and own keys, so the two partial sums add up to the output.
    out = torch.matmul(weights[..., prefix_length:], value)
    if prefix is not None and context is not None:
        out = out + context.unfold_from_groups(
            torch.matmul(context.fold_into_groups(weights[..., :prefix_length]), prefix[1]), rows
        )
    return out


def _concat_masks(prefix_mask: Tensor | None, own_mask: Tensor, prefix_length: int) -> Tensor:
    if prefix_mask is None:
        prefix_mask = own_mask.new_zeros(*own_mask.shape[:3], prefix_length)
    rows = max(len(prefix_mask), len(own_mask))
    return torch.cat(
        [prefix_mask.expand(rows, -1, -1, -1), own_mask.expand(rows, -1, -1, -1)], dim=-1
    )
