"""Padded buckets of a packed batch, and the index between packed tokens and buckets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prooftune.engine.uploads import upload


@dataclass(frozen=True, slots=True)
class QueryChunk:
    """A range of queries of all rows in a bucket, and the keys that they attend to.

    Attributes:
        queries: slice of each row's queries, with all query heads of a key head at each position.
        keys: slice of each row's keys, the prefix first.
        mask: additive [queries, last keys]; all keys before these are visible.
    """

    queries: slice
    keys: slice
    mask: Tensor


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """Rows of similar length, padded to one length behind the prefix.

    Attributes:
        rows: number of rows.
        prefix_length: shared tokens before each row; 0 for the bucket of the prefix itself.
        heads: key heads.
        query_slice, key_slice: its queries and keys among those of all buckets.
        chunks: in the order of their queries.
    """

    rows: int
    prefix_length: int
    heads: int
    query_slice: slice
    key_slice: slice
    chunks: list[QueryChunk]

    def queries(self, vectors: Tensor) -> Tensor:
        """This bucket's part of padded queries.

        Returns:
            [heads x rows, length x query heads per key head, size].
        """
        return vectors[self.query_slice].view(self.heads * self.rows, -1, vectors.shape[-1])

    def keys(self, vectors: Tensor) -> Tensor:
        """This bucket's part of padded keys: [heads x rows, prefix + length, size]."""
        return vectors[self.key_slice].view(self.heads * self.rows, -1, vectors.shape[-1])

    def sum_prefix(self, keys: Tensor) -> Tensor:
        """Sum of the prefix's key gradients over all rows: [prefix, heads, size]."""
        # (heads, rows, prefix + length, size), cut to the prefix.
        return (
            keys.view(self.heads, self.rows, -1, keys.shape[-1])[:, :, : self.prefix_length]
            .sum(1)
            .transpose(0, 1)
        )


@dataclass(frozen=True, slots=True)
class GatherIndex:
    """Index between packed vectors and the same vectors in padded buckets.

    Attributes:
        source: for each bucket position, the packed vector there (any vector at padding).
        inverse: for each packed vector, its bucket position.
        padding: bucket positions that hold no vector of their own.
    """

    source: Tensor
    inverse: Tensor
    padding: Tensor

    @classmethod
    def from_source(cls, source: Tensor, is_own: Tensor) -> GatherIndex:
        """Build the index; `is_own` is False at positions that are padding or copies."""
        positions = is_own.nonzero().flatten()
        # Each packed vector is at home in exactly one position, so every entry is written.
        inverse = torch.empty_like(positions)
        inverse[source[positions]] = positions
        return cls(source, inverse, (~is_own).nonzero().flatten())

    def upload(self, device: torch.device) -> GatherIndex:
        """The index on a device."""
        return GatherIndex(*(upload(t, device) for t in (self.source, self.inverse, self.padding)))

    def pad_packed(self, packed: Tensor) -> Tensor:
        """Packed vectors [tokens, heads, size] in bucket order [positions, size]."""
        return packed.view(-1, packed.shape[-1]).index_select(0, self.source)

    def pack(self, vectors: Tensor, heads: int) -> Tensor:
        """Vectors in bucket order back to packed order [tokens, heads, size]."""
        # A gather by the inverse index needs no zero-filled output, unlike a scatter.
        return vectors.index_select(0, self.inverse).view(-1, heads, vectors.shape[-1])


@dataclass(frozen=True, slots=True)
class BucketLayout:
    """The buckets of a packed batch for layers of one kind.

    Attributes:
        queries, keys: index between packed vectors and all buckets.
        buckets: one after another.
        num_weights: attention weights in all of them.
    """

    queries: GatherIndex
    keys: GatherIndex
    buckets: list[LengthBucket]
    num_weights: int

    @property
    def single_chunks(self) -> bool:
        """Whether every bucket is one chunk that attends to all its keys."""
        return all(
            len(bucket.chunks) == 1 and not bucket.chunks[0].keys.start for bucket in self.buckets
        )
