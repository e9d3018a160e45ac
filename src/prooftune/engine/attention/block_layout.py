"""Where the tokens of a line of rows stand when attention sets its rows out in blocks.

    line      prefix · row 1 · row 2 · … · row n
    stacks    the prefix by itself; the short rows, each behind the prefix; the longer rows, each
    behind the prefix; …

Rows of similar lengths make a stack, padded to its longest row. On a processor long rows are gone
through a piece of queries at a time, so that the weights of one piece fit into the cache, and what
lies after a piece is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from prooftune.engine.packing import PackedBatch

PIECE = {"cpu": 128}
"""Queries of a row that are gone through at a time, by kind of device; elsewhere all are."""
PLACES = 2048
"""Places of a stack whose rows are gone through in pieces: more would not stay in the cache."""
CALLS = 8_000
"""What one more stack costs, in weights of one head that could be computed in the time."""
WIDE = 32
"""Numbers of 16 bits in a processor's vector: a softmax over whole vectors takes half as long as
one with a rest."""


@dataclass(frozen=True, slots=True)
class QueryChunk:
    """Queries of all rows of a stack, and the keys that they see.

    Attributes:
        queries: of each row's places, with all queries that one key head has at a place.
        keys: of each row's places behind the shared ones.
        mask: additive [queries, last keys], nothing being hidden before these.
    """

    queries: slice
    keys: slice
    mask: Tensor


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """Rows padded to one length behind the tokens that they share.

    Attributes:
        rows, shared: how many rows, and shared tokens that stand before each.
        heads: key heads.
        asked, known: where its queries and its keys stand among those of all stacks.
        pieces: in the order of their queries.
    """

    rows: int
    shared: int
    heads: int
    asked: slice
    known: slice
    pieces: list[QueryChunk]

    def queries(self, vectors: Tensor) -> Tensor:
        """Of vectors set out for queries, this stack's: [heads x rows, places x queries of a key
        head at each, size]."""
        return vectors[self.asked].view(self.heads * self.rows, -1, vectors.shape[-1])

    def keys(self, vectors: Tensor) -> Tensor:
        """Of vectors set out for keys, this stack's: [heads x rows, shared + places, size]."""
        return vectors[self.known].view(self.heads * self.rows, -1, vectors.shape[-1])

    def of_shared(self, keys: Tensor) -> Tensor:
        """What there is for the shared tokens in all rows together: [shared, heads, size]."""
        return (
            keys.view(self.heads, self.rows, -1, keys.shape[-1])[:, :, : self.shared]
            .sum(1)
            .transpose(0, 1)
        )


@dataclass(frozen=True, slots=True)
class GatherIndex:
    """Places of the same vectors in two layouts.

    Attributes:
        there: for each place of the stacks, the line's vector that stands there.
        back: for each vector of the line, its place in the stacks.
        blank: places of the stacks where none stands.
    """

    there: Tensor
    back: Tensor
    blank: Tensor

    @classmethod
    def of(cls, there: Tensor, stands: Tensor) -> GatherIndex:
        """By what is there at each place, and whether it is that vector's own place (True) or
        filling or a copy."""
        places = stands.nonzero().flatten()
        back = torch.empty_like(places)
        back[there[places]] = places
        return cls(there, back, (~stands).nonzero().flatten())

    def set_out(self, line: Tensor) -> Tensor:
        """Vectors [tokens, heads, size] of a line in the order of the stacks; any vector at
        padding."""
        return line.view(-1, line.shape[-1]).index_select(0, self.there)

    def line(self, vectors: Tensor, heads: int) -> Tensor:
        """Vectors in the order of the stacks back in that of the line, [tokens, heads, size]."""
        return vectors.index_select(0, self.back).view(-1, heads, vectors.shape[-1])


@dataclass(frozen=True, slots=True)
class Layout:
    """A line's stacks for layers of one kind.

    Attributes:
        queries, keys: where the line's vectors stand in all stacks.
        stacks: one after another.
        weights: of attention, in all of them.
    """

    queries: GatherIndex
    keys: GatherIndex
    stacks: list[LengthBucket]
    weights: int

    @property
    def whole(self) -> bool:
        """Whether every stack is one piece that looks at all its keys."""
        return all(
            len(stack.pieces) == 1 and not stack.pieces[0].keys.start for stack in self.stacks
        )


@dataclass(slots=True)
class PackedLayout:
    """Where the tokens of a line stand, the same for all layers.

    Attributes:
        prefix: tokens of the shared prefix.
        lengths: tokens of each row.
        device: of the line.
    """

    prefix: int
    lengths: list[int]
    device: torch.device
    _layouts: dict[tuple[int, int, int | None, torch.dtype], Layout] = field(default_factory=dict)

    @classmethod
    def of(cls, line: PackedBatch) -> PackedLayout:
        lengths: list[int] = line.lengths.tolist()
        return cls(line.input_ids.shape[1] - sum(lengths), lengths, line.lengths.device)

    def layout(self, heads: int, groups: int, window: int | None, dtype: torch.dtype) -> Layout:
        """For layers with these key heads, queries for each of them, sliding window and arithmetic."""
        if window is not None and window >= self.prefix + max(self.lengths):
            window = None  # it hides nothing
        key = (heads, groups, window, dtype)
        if key not in self._layouts:
            self._layouts[key] = self._laid_out(heads, groups, window, dtype)
        return self._layouts[key]

    def _laid_out(self, heads: int, groups: int, window: int | None, dtype: torch.dtype) -> Layout:
        @cache
        def mask(first: int, count: int, low: int, high: int) -> Tensor:
            """Additive [count x groups, high - low] for queries and keys at these places, counted
            with the shared ones."""
            at = torch.arange(first, first + count, device=self.device)[:, None]
            seen = torch.arange(low, high, device=self.device)
            hidden = seen > at if window is None else (seen > at) | (at - seen >= window)
            found = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            return found.masked_fill(hidden, torch.finfo(dtype).min).repeat_interleave(groups, 0)

        head, group = (
            torch.arange(heads, device=self.device),
            torch.arange(groups, device=self.device),
        )
        queries: list[tuple[Tensor, Tensor]] = []
        keys: list[tuple[Tensor, Tensor]] = []
        stacks: list[LengthBucket] = []
        asked = known = weights = 0
        for starts, lengths, longest, shared in self._stacks():
            pieces = [
                QueryChunk(
                    slice(first * groups, last * groups), slice(low, shared + last), mask(*masked)
                )
                for first, last, low, masked in self._pieces(longest, shared, window)
            ]
            size, wide = (
                heads * len(lengths) * longest * groups,
                heads * len(lengths) * (shared + longest),
            )
            stacks.append(
                LengthBucket(
                    len(lengths),
                    shared,
                    heads,
                    slice(asked, asked + size),
                    slice(known, known + wide),
                    pieces,
                )
            )
            asked, known = asked + size, known + wide
            weights += (
                heads
                * len(lengths)
                * sum(p.mask.shape[0] * (p.keys.stop - p.keys.start) for p in pieces)
            )
            places = torch.arange(longest, device=self.device)
            stands = places < torch.tensor(lengths, device=self.device)[:, None]
            tokens = torch.where(
                stands, torch.tensor(starts, device=self.device)[:, None] + places, 0
            )
            at = (tokens[:, :, None] * heads + head.view(-1, 1, 1, 1)) * groups + group
            queries.append((at.flatten(), stands[:, :, None].expand(at.shape).flatten()))
            before = torch.arange(shared, device=self.device).expand(len(lengths), -1)
            behind = torch.cat([before, tokens], 1) * heads + head.view(-1, 1, 1)
            own = torch.cat([torch.zeros_like(before, dtype=torch.bool), stands], 1)
            keys.append((behind.flatten(), own.expand(behind.shape).flatten()))
        of_queries, of_keys = (
            GatherIndex.of(*(torch.cat(part) for part in zip(*both, strict=True)))
            for both in (queries, keys)
        )
        return Layout(of_queries, of_keys, stacks, weights)

    def _stacks(self) -> Iterator[tuple[list[int], list[int], int, int]]:
        """First tokens and lengths of each stack's rows, places of each (a little more than the
        longest has, where that makes whole vectors), and tokens that stand before each."""
        if self.prefix:
            yield [0], [self.prefix], self.prefix, 0
        starts, at = [], self.prefix
        for length in self.lengths:
            starts.append(at)
            at += length
        for rows in similar(self.lengths, self.prefix, PIECE.get(self.device.type)):
            longest = max(self.lengths[row] for row in rows)
            spare = -(self.prefix + longest) % WIDE
            yield (
                [starts[row] for row in rows],
                [self.lengths[row] for row in rows],
                longest + (spare if 8 * spare <= longest else 0),
                self.prefix,
            )

    def _pieces(
        self, longest: int, shared: int, window: int | None
    ) -> Iterator[tuple[int, int, int, tuple[int, int, int, int]]]:
        """First and last place of each piece's queries, the first key that they see, and what
        `mask` takes."""
        piece = PIECE.get(self.device.type, longest)
        short = longest < 2 * piece
        first = 0
        while first < longest:
            # Whole vectors of keys for all pieces but the last.
            last = (
                longest
                if short
                else min(longest, first + piece - ((shared + first) % WIDE if piece > WIDE else 0))
            )
            if longest - last < piece // 2:
                last = longest
            low = 0 if window is None else max(0, shared + first - window + 1)
            if short or window is not None:
                yield first, last, low, (shared + first, last - first, low, shared + last)
            else:  # the same for all pieces of a length
                yield first, last, low, (0, last - first, 0, last - first)
            first = last


def similar(lengths: Sequence[int], shared: int, piece: int | None) -> list[list[int]]:
    """Numbers of rows of similar lengths together, so that their padding costs less than one more
    stack would.

    Args:
        lengths: of the rows.
        shared: tokens before each.
        piece: queries that are gone through at a time, if not all are.
    """

    def work(length: int) -> int:
        half = piece is not None and length >= 2 * piece
        return length * (shared + (length // 2 if half else length))

    found: list[list[int]] = []
    waiting = [sorted(range(len(lengths)), key=lambda row: lengths[row])]
    while waiting:
        rows = waiting.pop()
        longest = lengths[rows[-1]]
        saved = [n * (work(longest) - work(lengths[rows[n - 1]])) for n in range(1, len(rows))]
        if saved and max(saved) > CALLS:
            cut = 1 + saved.index(max(saved))
            waiting += [rows[cut:], rows[:cut]]
        else:
            most = len(rows) if piece is None or longest < 2 * piece else max(1, PLACES // longest)
            found += [rows[i : i + most] for i in range(0, len(rows), most)]
    return found
