"""The attention that tells the rows of one line apart.

    prefix · row 1 · row 2 · … · row n          one line of tokens for everything that works token
    by token

All that a layer does to single tokens (the projections, the norms, the MLP: nine tenths of the
work) runs over the tokens that there are, and the prefix is computed once for all rows. For
attention alone the rows are set out in blocks: each looks at the prefix and at itself. Gradients
flow back to the prefix from every row.

In bfloat16, on some processors compiled code does that (`compiled_attention`), elsewhere plain
products. There, where they are large (rows x heads x length x (prefix + length) numbers in every
layer), the weights of attention are computed again in the backward pass instead of being kept, as
in FlashAttention (Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.attention.block_layout import Layout, PackedLayout
from prooftune.engine.attention.per_sequence import per_sequence_sdpa
from prooftune.engine.kernels import attention

MAX_SAVED_ATTENTION_WEIGHTS = 4_000_000
"""Weights of one layer that are kept for the backward pass; more are computed again."""

PER_SEQUENCE_MIN_TOKENS = {"cuda": 512}
"""Tokens of the longest row from which on, by kind of device, the library's kernel takes one row
after another; elsewhere it never does, since pieces are faster."""


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: PackedLayout,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention over a line of tokens [1, heads, tokens, size]; returns [1, tokens, heads, size]."""
    device = query.device.type
    # What autocast would do to each product by itself, also in the backward pass, where it is off.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query, key, value = (t[0].transpose(0, 1).to(dtype).contiguous() for t in (query, key, value))
    most = max(blocks.lengths)
    with torch.autocast(device, enabled=False):
        if (
            most >= PER_SEQUENCE_MIN_TOKENS.get(device, most + 1)
            and softcap is None
            and (window is None or blocks.prefix + most <= window)
        ):
            return per_sequence_sdpa(query, key, value, blocks.prefix, blocks.lengths, scaling)[
                None
            ]
        if attention.fits(query, key, value, scaling, softcap):
            return attention.attend(query, key, value, blocks, scaling, window)[None]
        out: Tensor = _LineAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, blocks, scaling, softcap, window
        )
    return out[None]


class _LineAttention(torch.autograd.Function):
    """Attention of a line's queries [tokens, query heads, size] to keys and values [tokens, key
    heads, size]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: PackedLayout,
        scaling: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        heads = key.shape[1]
        layout = blocks.layout(heads, query.shape[1] // heads, window, query.dtype)
        ctx.layout, ctx.soft = layout, _Softmax(scaling, softcap)
        asked, keys, values = (
            layout.queries.set_out(query),
            layout.keys.set_out(key),
            layout.keys.set_out(value),
        )
        found, kept, keeps = (
            torch.empty_like(asked),
            [],
            softcap is None and layout.weights <= MAX_SAVED_ATTENTION_WEIGHTS,
        )
        for piece, q, k, v, out in _pieces(layout, [asked, found], [keys, values]):
            weights, _ = ctx.soft.weights(q, k, piece.mask)
            _write(out, weights, v)
            if keeps:
                kept.append(weights)
        ctx.save_for_backward(asked, keys, values, *kept)
        return layout.queries.line(found, query.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        asked, keys, values, *kept = ctx.saved_tensors
        grad = layout.queries.set_out(grads[0].contiguous())
        grad.index_fill_(0, layout.queries.blank, 0)
        # What many pieces add to is wide, so that it is not rounded every time.
        of_asked, wide = torch.empty_like(asked), torch.promote_types(keys.dtype, torch.float32)
        of_keys, of_values = (
            torch.empty_like(t) if layout.whole else torch.zeros_like(t, dtype=wide)
            for t in (keys, values)
        )
        parts = _pieces(layout, [asked, grad, of_asked], [keys, values, of_keys, of_values])
        for number, (piece, q, k, v, g, of_q, of_k, of_v) in enumerate(parts):
            weights, capped = (kept[number], None) if kept else ctx.soft.weights(q, k, piece.mask)
            _write(of_v, weights.transpose(1, 2), g, not layout.whole)
            scores = ctx.soft.backward(torch.bmm(g, v.transpose(1, 2)), weights, capped)
            _write(of_q, scores, k)
            _write(of_k, scores.transpose(1, 2), q, not layout.whole)
        of_key, of_value = (_of_keys(layout, one).to(keys.dtype) for one in (of_keys, of_values))
        return (
            layout.queries.line(of_asked, grads[0].shape[1]),
            of_key,
            of_value,
            None,
            None,
            None,
            None,
        )


def _pieces(layout: Layout, queries: list[Tensor], keys: list[Tensor]) -> Iterator[tuple[Any, ...]]:
    """Each piece of each stack with its parts of the first two, of the others of `keys`, and of the
    others of `queries`."""
    for stack in layout.stacks:
        of_queries, of_keys = (
            [stack.queries(one) for one in queries],
            [stack.keys(one) for one in keys],
        )
        for piece in stack.pieces:
            q, *more_q = (one[:, piece.queries] for one in of_queries)
            k, v, *more_k = (one[:, piece.keys] for one in of_keys)
            yield piece, q, k, v, *more_q, *more_k


def _write(out: Tensor, a: Tensor, b: Tensor, added: bool = False) -> None:
    """out = a b, or that `added` to it; `out` may be a part of a larger array."""
    if added:
        out += torch.bmm(a, b)
    elif out.is_contiguous():
        torch.bmm(a, b, out=out)
    else:
        out.copy_(torch.bmm(a, b))


def _of_keys(layout: Layout, vectors: Tensor) -> Tensor:
    """Gradients of keys in the order of the stacks back in the line, where the prefix has some from
    every row."""
    line = layout.keys.line(vectors, layout.stacks[0].heads)
    behind = [stack for stack in layout.stacks if stack.shared]
    if behind:
        first = line[: behind[0].shared]
        wide = torch.promote_types(
            vectors.dtype, torch.float32
        )  # rounded once, whatever the number of stacks
        first.add_(sum(stack.of_shared(stack.keys(vectors)).to(wide) for stack in behind))
    return line


@dataclass(frozen=True, slots=True)
class _Softmax:
    scaling: float
    cap: float | None

    def weights(self, query: Tensor, key: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights [blocks, queries, keys] where `mask` hides some of the last keys, and the scores
        under a cap that they come from."""
        keys, masked = key.transpose(1, 2), mask.shape[1]
        if self.cap is None and masked == key.shape[1]:
            return torch.softmax(torch.baddbmm(mask, query, keys, alpha=self.scaling), dim=-1), None
        scores = query.new_empty(len(query), query.shape[1], key.shape[1])
        scores.baddbmm_(query, keys, beta=0, alpha=self.scaling)
        capped = None if self.cap is None else torch.tanh(scores.div_(self.cap)).mul_(self.cap)
        scores = scores if capped is None else capped.clone()
        scores[:, :, -masked:] += mask
        return torch.softmax(scores, dim=-1), capped

    def backward(self, grad: Tensor, weights: Tensor, capped: Tensor | None) -> Tensor:
        """Gradient of the products of queries and keys from that of the weights."""
        scores: Tensor = torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)
        if capped is not None and self.cap is not None:
            scores = scores * (1 - (capped / self.cap) ** 2)
        return scores.mul_(self.scaling)
