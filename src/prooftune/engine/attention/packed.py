"""Attention over a packed batch: every row sees the shared prefix and itself.

    prefix · row 1 · row 2 · … · row n          one sequence of tokens

All per-token work of a layer (projections, norms, MLP: nine tenths of the total) runs on the packed
tokens, and the prefix is computed once for all rows. Only attention separates the rows: it sorts
them into padded buckets of similar length, each row behind the prefix. Gradients flow back to the
prefix from every row.

In bfloat16 on supported CPUs a compiled FlashAttention kernel does this (`kernels.attention`),
elsewhere plain matmuls. Attention weights that are large (rows x heads x length x
(prefix + length) in every layer) are recomputed in the backward pass instead of being saved, as in
FlashAttention (Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prooftune.engine.attention.buckets import BucketLayout
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.attention.per_sequence import per_sequence_sdpa
from prooftune.engine.attention.rope import DeferredRope
from prooftune.engine.autograd import SavedTensors
from prooftune.engine.kernels import attention

MAX_SAVED_ATTENTION_WEIGHTS = 4_000_000
"""Attention weights of one layer that are saved for the backward pass; more are recomputed."""

PER_SEQUENCE_MIN_TOKENS = {"cuda": 512}
"""By device type: length of the longest row from which PyTorch's kernel takes one row at a time.

On other devices it never does, since query chunks are faster there.
"""


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention over a packed batch.

    Args:
        query: [1, query heads, tokens, size].
        key, value: [1, key heads, tokens, size].
        layout: where the prefix and the rows are.
        scaling: factor of the scores.
        softcap: bound of the scores, as in Gemma 2 (arXiv 2408.00118).
        window: positions that a sliding-window layer attends to. None: all.

    Returns:
        [1, tokens, query heads, size].
    """
    device = value.device.type  # of queries, it would apply their deferred RoPE
    # What autocast would do to each matmul, also in the backward pass, where autocast is off.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    if isinstance(query, DeferredRope) and isinstance(key, DeferredRope):
        q, k, v = (tokens_first(t, dtype) for t in (query.unrotated, key.unrotated, value))
        if (
            query.angles is key.angles
            and query.angles[0].dtype == dtype
            and attention.is_supported(q, k, v, scaling, softcap)
        ):
            return attention.flash_attention(q, k, v, layout, scaling, window, query.angles)[None]
    query, key, value = (tokens_first(t, dtype) for t in (query, key, value))
    longest = max(layout.lengths)
    with torch.autocast(device, enabled=False):
        if (
            longest >= PER_SEQUENCE_MIN_TOKENS.get(device, longest + 1)
            and softcap is None
            and (window is None or layout.prefix_length + longest <= window)
        ):
            return per_sequence_sdpa(
                query, key, value, layout.prefix_length, layout.lengths, scaling
            )[None]
        if attention.is_supported(query, key, value, scaling, softcap):
            return attention.flash_attention(query, key, value, layout, scaling, window)[None]
        out: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, layout, scaling, softcap, window
        )
    return out[None]


def tokens_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, heads, tokens, size] as the kernels take it: [tokens, heads, size]."""
    # Squeezed and not indexed: the gradient of an index is copied into zeros, and loses the order
    # in memory that RoPE relies on.
    return x.squeeze(0).transpose(0, 1).to(dtype).contiguous()


class _Context(SavedTensors, Protocol):
    layout: BucketLayout
    softmax: _Softmax


class _PackedAttention(torch.autograd.Function):
    """Attention of packed queries [tokens, query heads, size] to keys [tokens, key heads, size]."""

    @staticmethod
    def forward(
        ctx: _Context,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        packed_layout: PackedLayout,
        scaling: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        heads = key.shape[1]
        layout = packed_layout.bucket_layout(heads, query.shape[1] // heads, window, query.dtype)
        ctx.layout, ctx.softmax = layout, _Softmax(scaling, softcap)
        queries, keys, values = (
            layout.queries.pad_packed(query),
            layout.keys.pad_packed(key),
            layout.keys.pad_packed(value),
        )
        outputs, saved, save_weights = (
            torch.empty_like(queries),
            [],
            softcap is None and layout.num_weights <= MAX_SAVED_ATTENTION_WEIGHTS,
        )
        for chunk, q, k, v, out in _chunks(layout, [queries, outputs], [keys, values]):
            weights, _ = ctx.softmax.weights(q, k, chunk.mask)  # (heads x rows, queries, keys)
            _matmul_into(out, weights, v)
            # With soft-capping the capped scores would have to be saved as well.
            if save_weights:
                saved.append(weights)
        ctx.save_for_backward(queries, keys, values, *saved)
        return layout.queries.pack(outputs, query.shape[1])  # (tokens, query heads, size)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layout = ctx.layout
        queries, keys, values, *saved = ctx.saved_tensors
        grad = layout.queries.pad_packed(grads[0].contiguous())
        # Padding holds copies of a token's gradient, which the keys' gradients would count again.
        grad.index_fill_(0, layout.queries.padding, 0)
        # Sums over many chunks are float32, so that they are not rounded every time.
        grad_queries, wide = (
            torch.empty_like(queries),
            torch.promote_types(keys.dtype, torch.float32),
        )
        # With one chunk per bucket every key's gradient is written once; otherwise chunks add up.
        grad_keys, grad_values = (
            torch.empty_like(t) if layout.single_chunks else torch.zeros_like(t, dtype=wide)
            for t in (keys, values)
        )
        chunks = _chunks(
            layout, [queries, grad, grad_queries], [keys, values, grad_keys, grad_values]
        )
        for i, (chunk, q, k, v, g, grad_q, grad_k, grad_v) in enumerate(chunks):
            weights, capped = (saved[i], None) if saved else ctx.softmax.weights(q, k, chunk.mask)
            # Keys are seen by several chunks, so their gradients accumulate; queries by one only.
            _matmul_into(grad_v, weights.transpose(1, 2), g, not layout.single_chunks)
            # grad_weights = grad_out Vᵀ, through the softmax to the scores.
            grad_scores = ctx.softmax.backward(torch.bmm(g, v.transpose(1, 2)), weights, capped)
            _matmul_into(grad_q, grad_scores, k)
            _matmul_into(grad_k, grad_scores.transpose(1, 2), q, not layout.single_chunks)
        grad_key, grad_value = (
            _pack_key_gradients(layout, t).to(keys.dtype) for t in (grad_keys, grad_values)
        )
        return (
            layout.queries.pack(grad_queries, grads[0].shape[1]),
            grad_key,
            grad_value,
            None,
            None,
            None,
            None,
        )


def _chunks(
    layout: BucketLayout, queries: list[Tensor], keys: list[Tensor]
) -> Iterator[tuple[Any, ...]]:
    """Every query chunk of every bucket, with its slices of all given arrays.

    Yields:
        The chunk; slices of the first of `queries` and the first two of `keys`; then of the other
        `queries`, then of the other `keys`.
    """
    for bucket in layout.buckets:
        bucket_queries, bucket_keys = (
            [bucket.queries(t) for t in queries],
            [bucket.keys(t) for t in keys],
        )
        for chunk in bucket.chunks:
            q, *more_q = (t[:, chunk.queries] for t in bucket_queries)
            k, v, *more_k = (t[:, chunk.keys] for t in bucket_keys)
            yield chunk, q, k, v, *more_q, *more_k


def _matmul_into(out: Tensor, a: Tensor, b: Tensor, accumulate: bool = False) -> None:
    """out = a b, or out += a b; `out` may be a slice of a larger array."""
    if accumulate:
        out += torch.bmm(a, b)
    elif out.is_contiguous():
        torch.bmm(a, b, out=out)
    else:
        out.copy_(torch.bmm(a, b))


def _pack_key_gradients(layout: BucketLayout, grads: Tensor) -> Tensor:
    """Pack the gradients of keys or values; the prefix gets the sum over all rows."""
    # The gather takes the prefix's own bucket; the copies in front of the rows are added below.
    packed = layout.keys.pack(grads, layout.buckets[0].heads)
    continuing = [bucket for bucket in layout.buckets if bucket.prefix_length]
    if continuing:
        prefix = packed[: continuing[0].prefix_length]
        # Summed in float32 and rounded once, whatever the number of buckets.
        wide = torch.promote_types(grads.dtype, torch.float32)
        prefix.add_(sum(bucket.sum_prefix(bucket.keys(grads)).to(wide) for bucket in continuing))
    return packed


@dataclass(frozen=True, slots=True)
class _Softmax:
    """Scaled, optionally soft-capped softmax of attention scores, and its gradient."""

    scaling: float
    cap: float | None

    def weights(self, query: Tensor, key: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Attention weights [blocks, queries, keys], and the soft-capped scores they come from.

        `mask` covers the last keys only; all keys before are visible.
        """
        keys, masked = key.transpose(1, 2), mask.shape[1]
        if self.cap is None and masked == key.shape[1]:
            # One fused operation adds the mask and scales.
            return torch.softmax(torch.baddbmm(mask, query, keys, alpha=self.scaling), dim=-1), None
        scores = query.new_empty(len(query), query.shape[1], key.shape[1])
        # With beta=0 the uninitialised memory is ignored, NaN included.
        scores.baddbmm_(query, keys, beta=0, alpha=self.scaling)
        capped = None if self.cap is None else torch.tanh(scores.div_(self.cap)).mul_(self.cap)
        # The gradient of the cap needs the scores before the mask is added in place.
        scores = scores if capped is None else capped.clone()
        # Keys before the chunk's own are all visible and need no mask.
        scores[:, :, -masked:] += mask
        return torch.softmax(scores, dim=-1), capped

    def backward(self, grad: Tensor, weights: Tensor, capped: Tensor | None) -> Tensor:
        """Gradient of query-key dot products from the gradient of the weights."""
        scores: Tensor = torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)
        if capped is not None and self.cap is not None:
            # Derivative of cap · tanh(x / cap).
            scores = scores * (1 - (capped / self.cap) ** 2)
        return scores.mul_(self.scaling)
