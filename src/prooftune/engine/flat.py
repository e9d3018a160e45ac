"""Rows laid one after another without padding, a shared prefix before them, and the attention that tells them apart.

    prefix · row 1 · row 2 · … · row n          one line of tokens for everything that works token by token

All that a layer does to single tokens (the projections, the norms, the MLP: nine tenths of the work) runs over the
tokens that there are, and the prefix is computed once for all rows. For attention alone the rows are set out in padded
blocks [rows, longest]: each looks at the prefix and at itself. Gradients flow back to the prefix from every row.

Where they are large (rows x heads x length x (prefix + length) numbers in every layer) the weights of attention are computed
again in the backward pass instead of being kept, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.long import one_by_one

KEPT = 4_000_000
"""Weights of one layer that are kept for the backward pass; more are computed again."""

WIDE = 32
"""Numbers of 16 bits in a processor's vector."""

LONG = 512
"""Tokens of the longest row from which on rows are attended to one after another, without any padding: there both ways take
as long where all rows are that long, and the other takes longer where they differ."""


@dataclass(frozen=True, slots=True)
class Line:
    """Rows in one line.

    Attributes:
        input_ids, position_ids: [1, prefix + tokens of all rows]; positions begin again after the prefix with every row.
        lengths: [rows] tokens of each row.
        read: [n] places in the line whose hidden states are read.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    read: Tensor


def lay(prefix: Sequence[int], rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]]) -> Line:
    """Lay rows behind their common prefix; `read` gives, per row, the places within the row to read."""
    shared = len(prefix)
    ids, positions, places = list(prefix), list(range(shared)), []
    for row, wanted in zip(rows, read, strict=True):
        places += [len(ids) + place for place in wanted]
        ids += row
        positions += range(shared, shared + len(row))
    return Line(torch.tensor([ids]), torch.tensor([positions]), torch.tensor([len(row) for row in rows]),
                torch.tensor(places, dtype=torch.long))


@dataclass(slots=True)
class Blocks:
    """Where the tokens of a line stand when its rows are set out in blocks, the same for all layers.

    Attributes:
        prefix: tokens of the shared prefix.
        lengths: tokens of each row.
        rows, longest: number of rows, tokens of the longest, or a little more.
        place: [tokens after the prefix] each one's place in the flattened rows x longest.
        token: [rows, longest] the token of the line at each place; at padding, any.
        padding: [p] places in the flattened rows x longest where no token stands.
    """

    prefix: int
    lengths: list[int]
    rows: int
    longest: int
    place: Tensor
    token: Tensor
    padding: Tensor
    _parts: dict[tuple[int, int, int | None, torch.dtype], list[_Part]] = field(default_factory=dict)

    @classmethod
    def of(cls, line: Line) -> Blocks:
        lengths = line.lengths
        rows, longest = len(lengths), int(lengths.max())
        prefix = line.input_ids.shape[1] - int(lengths.sum())
        # A 16-bit softmax over whole vectors takes half as long on a CPU as one with a rest.
        spare = -(prefix + longest) % WIDE
        longest += spare if 8 * spare <= longest else 0
        stands = (torch.arange(longest, device=lengths.device) < lengths[:, None]).flatten()
        place = stands.nonzero().flatten()
        token = torch.zeros(rows * longest, dtype=torch.long, device=lengths.device)
        token[place] = torch.arange(prefix, prefix + len(place), device=lengths.device)
        return cls(prefix, lengths.tolist(), rows, longest, place, token.view(rows, longest), (~stands).nonzero().flatten())

    def parts(self, heads: int, groups: int, window: int | None, dtype: torch.dtype) -> list[_Part]:
        """The rows and, if there is one, the prefix, for layers with these key heads and queries for each of them."""
        key = (heads, groups, window, dtype)
        if key not in self._parts:
            mask, shared = self._mask(self.prefix, self.longest, window, dtype), self.prefix
            queries, keys = self._queries(heads, groups), self._keys(heads)
            parts = [_Part(mask.repeat(groups, 1), heads, groups, shared, None, queries, keys)]
            if shared:
                parts.append(_Part(self._mask(0, shared, window, dtype).repeat(groups, 1), heads, groups, 0, shared, None, None))
            self._parts[key] = parts
        return self._parts[key]

    def _queries(self, heads: int, groups: int) -> Order:
        """From vectors [tokens, heads x groups] to [heads, rows, groups, longest] and back."""
        head = torch.arange(heads, device=self.token.device).view(-1, 1, 1, 1)
        group = torch.arange(groups, device=self.token.device).view(-1, 1)

        def at(place: Tensor) -> Tensor:
            """Places in [heads, rows, groups, longest] of places in rows x longest, [heads, places, groups, 1]."""
            row, within = (place // self.longest).view(1, -1, 1, 1), (place % self.longest).view(1, -1, 1, 1)
            return ((head * self.rows + row) * groups + group) * self.longest + within

        there = (self.token[:, None] * heads + head) * groups + group
        back = at(self.place).transpose(0, 1)
        return Order(there.flatten(), back.flatten(), at(self.padding).flatten())

    def _keys(self, heads: int) -> Order:
        """From vectors [tokens, heads] to [heads, rows, prefix + longest], the prefix before every row, and the rows' back."""
        device = self.token.device
        head = torch.arange(heads, device=device).view(-1, 1, 1)
        shared = torch.arange(self.prefix, device=device).expand(self.rows, -1)
        there = torch.cat([shared, self.token], dim=1) * heads + head
        row, within = (self.place // self.longest).view(-1, 1), (self.place % self.longest).view(-1, 1)
        back = (head.view(1, -1) * self.rows + row) * (self.prefix + self.longest) + self.prefix + within
        return Order(there.flatten(), back.flatten())

    def _mask(self, prefix: int, queries: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Additive [queries, prefix + queries]: earlier tokens of the same row, and those of the prefix, within the window."""
        at = torch.arange(prefix, prefix + queries, device=self.token.device)[:, None]
        seen = torch.arange(prefix + queries, device=self.token.device)
        hidden = seen > at if window is None else (seen > at) | (at - seen >= window)
        return torch.zeros(hidden.shape, dtype=dtype, device=at.device).masked_fill(hidden, torch.finfo(dtype).min)


@dataclass(frozen=True, slots=True)
class Order:
    """Places of the same vectors in two layouts.

    Attributes:
        there: for each place of the blocks, the line's vector that stands there.
        back: for each vector of the line after the prefix, its place in the blocks.
        blank: places of the blocks where none stands.
    """

    there: Tensor
    back: Tensor
    blank: Tensor | None = None


def attend_line(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float, softcap: float | None, window: int | None
) -> Tensor:
    """Attention over a line of tokens [1, heads, tokens, size]; returns [1, tokens, heads, size]."""
    device = query.device.type
    # What autocast would do to each product by itself, also in the backward pass, where it is off.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query, key, value = (t[0].transpose(0, 1).to(dtype).contiguous() for t in (query, key, value))
    most = max(blocks.lengths)
    with torch.autocast(device, enabled=False):
        if most >= LONG and softcap is None and (window is None or blocks.prefix + most <= window):
            return one_by_one(query, key, value, blocks.prefix, blocks.lengths, scaling)[None]
        out: Tensor = _LineAttention.apply(  # type: ignore[no-untyped-call]
            query, key, value, blocks, scaling, softcap, window)
    return out[None]


class _LineAttention(torch.autograd.Function):
    """Attention of a line's queries [tokens, query heads, size] to keys and values [tokens, key heads, size]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scaling: float, softcap: float | None,
        window: int | None,
    ) -> Tensor:
        heads = key.shape[1]
        ctx.soft, ctx.keys = _Softmax(scaling, softcap), key.shape
        ctx.parts = blocks.parts(heads, query.shape[1] // heads, window, query.dtype)
        out, saved = torch.empty_like(query), []
        for part in ctx.parts:
            asked, keys, values = part.queries(query), part.keys(key), part.keys(value)
            weights, capped = ctx.soft.weights(asked, keys, part.mask)
            part.put(out, torch.bmm(weights, values))
            saved += [asked, keys, values, weights if capped is None and weights.numel() <= KEPT else None]
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        of_query, of_key, of_value = torch.empty_like(grad), grad.new_zeros(ctx.keys), grad.new_zeros(ctx.keys)
        saved = iter(ctx.saved_tensors)
        for part, asked, keys, values, known in zip(ctx.parts, saved, saved, saved, saved, strict=True):
            weights, capped = (known, None) if known is not None else ctx.soft.weights(asked, keys, part.mask)
            wide = part.gradients(grad)
            part.put_keys(of_value, torch.bmm(weights.transpose(1, 2), wide))
            scores = ctx.soft.backward(torch.bmm(wide, values.transpose(1, 2)), weights, capped)
            part.put(of_query, torch.bmm(scores, keys))
            part.put_keys(of_key, torch.bmm(scores.transpose(1, 2), asked))
        return of_query, of_key, of_value, None, None, None, None


@dataclass(frozen=True, slots=True)
class _Softmax:
    scaling: float
    cap: float | None

    def weights(self, query: Tensor, key: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights [blocks, queries, keys], and the scores under a cap that they come from."""
        keys = key.transpose(1, 2)
        if self.cap is None:
            return torch.softmax(torch.baddbmm(mask, query, keys, alpha=self.scaling), dim=-1), None
        capped = torch.tanh(torch.bmm(query, keys) * (self.scaling / self.cap)) * self.cap
        return torch.softmax(capped + mask, dim=-1), capped

    def backward(self, grad: Tensor, weights: Tensor, capped: Tensor | None) -> Tensor:
        """Gradient of the products of queries and keys from that of the weights."""
        scores: Tensor = torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)
        if capped is not None and self.cap is not None:
            scores = scores * (1 - (capped / self.cap) ** 2)
        return scores.mul_(self.scaling)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where the prefix's tokens, or those of all rows, stand in blocks, a block for every key head and row.

    Attributes:
        mask: additive [groups x queries, keys].
        heads, groups, start, end: key heads, queries for each of them, and the part's tokens in the line.
        order, key_order: None for the prefix, whose blocks are the line's own vectors.
    """

    mask: Tensor
    heads: int
    groups: int
    start: int
    end: int | None
    order: Order | None
    key_order: Order | None

    def queries(self, line: Tensor) -> Tensor:
        """The line's vectors [tokens, query heads, size] in blocks [blocks, groups x queries, size]; any at padding."""
        if self.order is None:
            return _by_head(line[: self.end], self.heads)
        return line.view(-1, line.shape[-1]).index_select(0, self.order.there).view(-1, len(self.mask), line.shape[-1])

    def gradients(self, line: Tensor) -> Tensor:
        """The same of gradients; zero at padding."""
        taken = self.queries(line)
        if self.order is not None and self.order.blank is not None and len(self.order.blank):
            taken.view(-1, line.shape[-1]).index_fill_(0, self.order.blank, 0)
        return taken

    def keys(self, line: Tensor) -> Tensor:
        """The line's vectors [tokens, key heads, size] in blocks [blocks, keys, size]; any at padding."""
        if self.key_order is None:
            return line[: self.end].transpose(0, 1)
        return line.view(-1, line.shape[-1]).index_select(0, self.key_order.there).view(-1, self.mask.shape[1], line.shape[-1])

    def put(self, line: Tensor, found: Tensor) -> None:
        """Write what was found for the queries to its tokens of the line."""
        size = line.shape[-1]
        if self.order is None:
            line[: self.end] = found.view(self.heads * self.groups, -1, size).transpose(0, 1)
        else:
            line[self.start :] = found.view(-1, size).index_select(0, self.order.back).view(-1, self.heads * self.groups, size)

    def put_keys(self, line: Tensor, found: Tensor) -> None:
        """Add what was found for the keys to its tokens of the line; the prefix has some from every row."""
        size = line.shape[-1]
        if self.key_order is None:
            line[: self.end] += found.transpose(0, 1)
            return
        if self.start:
            line[: self.start] += found.view(self.heads, -1, found.shape[1], size)[:, :, : self.start].sum(1).transpose(0, 1)
        line[self.start :] = found.view(-1, size).index_select(0, self.key_order.back).view(-1, self.heads, size)


def _by_head(vectors: Tensor, heads: int) -> Tensor:
    """[tokens, heads x groups, size] -> [heads, groups x tokens, size]."""
    return vectors.transpose(0, 1).reshape(heads, -1, vectors.shape[-1])
