"""Layout of a packed batch in padded buckets, in which attention is computed, and its masks.

    packed    prefix · row 1 · row 2 · … · row n
    buckets   the prefix alone; the short rows, each behind the prefix; the longer rows, each behind
              the prefix; …

Rows of similar length form a bucket, padded to its longest row. On CPUs long rows are computed in
chunks of queries, so that the attention weights of a chunk fit the cache, and keys after a chunk
are skipped (causal mask).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from prooftune.engine.attention.buckets import (
    BucketLayout,
    GatherIndex,
    LengthBucket,
    QueryChunk,
)
from prooftune.engine.packing import PackedBatch

QUERY_CHUNK = {"cpu": 128}
"""By device type: queries of a row computed at a time; on other devices all are."""
MAX_BUCKET_TOKENS = 2048
"""Tokens in a bucket whose rows are computed in chunks; more would not stay in the cache."""
BUCKET_OVERHEAD = 8_000
"""Cost of one more bucket, as a number of attention weights of one head."""
SIMD_WIDTH = 32
"""16-bit values in a CPU vector: a softmax over whole vectors takes half as long."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Rows of one bucket before the index is built.

    Attributes:
        starts, lengths: first packed token and length of each row.
        padded_length: of every row.
        prefix_length: shared tokens before each row.
    """

    starts: list[int]
    lengths: list[int]
    padded_length: int
    prefix_length: int


@dataclass(slots=True)
class PackedLayout:
    """Positions of prefix and rows in a packed batch, the same for all layers.

    Attributes:
        prefix_length: tokens of the shared prefix.
        lengths: tokens of each row.
        device: of the batch.
    """

    prefix_length: int
    lengths: list[int]
    device: torch.device
    _layouts: dict[tuple[int, int, int | None, torch.dtype], BucketLayout] = field(
        default_factory=dict
    )

    @classmethod
    def from_batch(cls, batch: PackedBatch) -> PackedLayout:
        """The layout of a packed batch."""
        lengths = list(batch.lengths)
        return cls(batch.input_ids.shape[1] - sum(lengths), lengths, batch.input_ids.device)

    def bucket_layout(
        self, heads: int, groups: int, window: int | None, dtype: torch.dtype
    ) -> BucketLayout:
        """The buckets for layers of one kind; built once.

        Args:
            heads: key heads.
            groups: query heads per key head (GQA).
            window: positions that a sliding-window layer attends to. None: all.
            dtype: of the attention masks.
        """
        if window is not None and window >= self.prefix_length + max(self.lengths):
            window = None  # it hides nothing
        key = (heads, groups, window, dtype)
        if key not in self._layouts:
            self._layouts[key] = self._build(heads, groups, window, dtype)
        return self._layouts[key]

    def _build(
        self, heads: int, groups: int, window: int | None, dtype: torch.dtype
    ) -> BucketLayout:
        # Chunks of the same shape share one mask.
        @cache
        def mask(first: int, count: int, low: int, high: int) -> Tensor:
            """Additive [count x groups, high - low] for queries from `first` and keys from `low`.

            Positions are counted from the start of the prefix.
            """
            positions = torch.arange(first, first + count, device=self.device)[:, None]
            keys = torch.arange(low, high, device=self.device)
            hidden = keys > positions  # causal: later keys
            if window is not None:
                hidden = hidden | (positions - keys >= window)
            zeros = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            return zeros.masked_fill(hidden, torch.finfo(dtype).min).repeat_interleave(groups, 0)

        # Buckets follow one another in two flat arrays, one of queries and one of keys.
        queries: list[tuple[Tensor, Tensor]] = []
        keys: list[tuple[Tensor, Tensor]] = []
        buckets: list[LengthBucket] = []
        query_start = key_start = num_weights = 0
        for bucket in self._buckets():
            prefix, padded = bucket.prefix_length, bucket.padded_length
            chunks = [
                QueryChunk(
                    slice(first * groups, last * groups), slice(low, prefix + last), mask(*masked)
                )
                for first, last, low, masked in self._chunks(padded, prefix, window)
            ]
            # Each bucket is [key heads x rows, ...]: one batched matmul per chunk.
            count = heads * len(bucket.lengths)
            query_end = query_start + count * padded * groups
            key_end = key_start + count * (prefix + padded)
            buckets.append(
                LengthBucket(
                    len(bucket.lengths),
                    prefix,
                    heads,
                    slice(query_start, query_end),
                    slice(key_start, key_end),
                    chunks,
                )
            )
            query_start, key_start = query_end, key_end
            num_weights += count * sum(
                chunk.mask.shape[0] * (chunk.keys.stop - chunk.keys.start) for chunk in chunks
            )
            bucket_queries, bucket_keys = self._sources(bucket, heads, groups)
            queries.append(bucket_queries)
            keys.append(bucket_keys)
        query_index, key_index = (
            GatherIndex.from_source(*(torch.cat(part) for part in zip(*parts, strict=True))).upload(
                self.device
            )
            for parts in (queries, keys)
        )
        return BucketLayout(query_index, key_index, buckets, num_weights)

    def _sources(
        self, bucket: _Bucket, heads: int, groups: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Arguments of `GatherIndex.from_source` for a bucket's queries and keys."""
        # On the host: sizes that depend on values would make it wait for the GPU.
        head = torch.arange(heads)
        group = torch.arange(groups)
        positions = torch.arange(bucket.padded_length)
        is_token = positions < torch.tensor(bucket.lengths)[:, None]
        starts = torch.tensor(bucket.starts)[:, None]
        # Packed token at each position of each row; token 0 stands in at padding.
        tokens = torch.where(is_token, starts + positions, 0)  # (rows, length)
        # Index of vectors, with the query heads of a key head (GQA) next to each other: [key heads,
        # rows, length, query heads per key head].
        queries = (tokens[:, :, None] * heads + head.view(-1, 1, 1, 1)) * groups + group
        query_is_own = is_token[:, :, None].expand(queries.shape)
        # Every row's keys start with copies of the prefix's, whose own bucket comes first.
        prefix = torch.arange(bucket.prefix_length).expand(len(bucket.lengths), -1)
        keys = torch.cat([prefix, tokens], 1) * heads + head.view(-1, 1, 1)
        key_is_own = torch.cat([torch.zeros_like(prefix, dtype=torch.bool), is_token], 1)
        return (
            (queries.flatten(), query_is_own.flatten()),
            (keys.flatten(), key_is_own.expand(keys.shape).flatten()),
        )

    def _buckets(self) -> Iterator[_Bucket]:
        """The prefix by itself, then the rows by similar length.

        Rows are padded a little beyond the longest where that makes whole SIMD vectors of keys.
        """
        if self.prefix_length:
            yield _Bucket([0], [self.prefix_length], self.prefix_length, 0)
        starts, start = [], self.prefix_length
        for length in self.lengths:
            starts.append(start)
            start += length
        chunk = QUERY_CHUNK.get(self.device.type)
        for rows in bucket_by_length(self.lengths, self.prefix_length, chunk):
            longest = max(self.lengths[row] for row in rows)
            padding = -(self.prefix_length + longest) % SIMD_WIDTH
            yield _Bucket(
                [starts[row] for row in rows],
                [self.lengths[row] for row in rows],
                # At most an eighth more keys: beyond that the wider softmax costs more than it
                # saves.
                longest + (padding if 8 * padding <= longest else 0),
                self.prefix_length,
            )

    def _chunks(
        self, length: int, prefix: int, window: int | None
    ) -> Iterator[tuple[int, int, int, tuple[int, int, int, int]]]:
        """Query chunks of rows of a length behind a prefix.

        Yields:
            First and last query of each chunk, the first key that they see, and the arguments of
            `mask`.
        """
        chunk = QUERY_CHUNK.get(self.device.type, length)
        short = length < 2 * chunk
        first = 0
        while first < length:
            # Whole SIMD vectors of keys for all chunks but the last.
            excess = (prefix + first) % SIMD_WIDTH if chunk > SIMD_WIDTH else 0
            last = length if short else min(length, first + chunk - excess)
            # No short chunk at the end: the last one takes it.
            if length - last < chunk // 2:
                last = length
            low = 0 if window is None else max(0, prefix + first - window + 1)
            if short or window is not None:
                yield first, last, low, (prefix + first, last - first, low, prefix + last)
            else:  # one causal mask for all chunks of a length; keys before the chunk are visible
                yield first, last, low, (0, last - first, 0, last - first)
            first = last


def bucket_by_length(
    lengths: Sequence[int], prefix_length: int, chunk: int | None
) -> list[list[int]]:
    """Group rows of similar length so that their padding costs less than one more bucket would.

    Args:
        lengths: tokens of each row.
        prefix_length: tokens before each row.
        chunk: queries computed at a time. None: all.

    Returns:
        Row numbers of each bucket.
    """

    def work(length: int) -> int:
        """Attention weights of a row; chunks of a long row skip half of its own keys."""
        half = chunk is not None and length >= 2 * chunk
        return length * (prefix_length + (length // 2 if half else length))

    buckets: list[list[int]] = []
    # Cut where it saves most, then look at both parts again.
    waiting = [sorted(range(len(lengths)), key=lambda row: lengths[row])]
    while waiting:
        rows = waiting.pop()
        longest = lengths[rows[-1]]
        # Work saved by cutting off the n shortest rows, which then need no padding to the longest.
        saved = [n * (work(longest) - work(lengths[rows[n - 1]])) for n in range(1, len(rows))]
        if saved and max(saved) > BUCKET_OVERHEAD:
            cut = 1 + saved.index(max(saved))
            waiting += [rows[cut:], rows[:cut]]
        else:
            short = chunk is None or longest < 2 * chunk
            # Long rows are further divided, so that the keys of a bucket stay in the cache.
            size = len(rows) if short else max(1, MAX_BUCKET_TOKENS // longest)
            buckets += [rows[i : i + size] for i in range(0, len(rows), size)]
    return buckets
