"""KV cache: keys and values of the tokens seen so far, for prefill and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.attention.padded_masks import KeysValues
from prooftune.engine.batching import UnpaddedLayout
from prooftune.engine.uploads import upload_numbers


class KVCache:
    """A transformers-compatible cache over preallocated buffers that are written in place.

    Growing a tensor by one token copies all of it, for every layer and every decode step; a buffer
    with capacity for the tokens to come is written at the next position. Each row's tokens start at
    its first position, whatever the length of the others.

    Attributes:
        unpadded: layout of the tokens that come next if the layers run on packed tokens; None if
            they run on padded rows.
    """

    def __init__(self) -> None:
        self.unpadded: UnpaddedLayout | None = None
        self._layers: dict[int, KeysValues] = {}
        self._positions: Tensor | None = None  # [rows] of the next token; None during prefill
        self._rows: Tensor | None = None
        self._visible = 0

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> KeysValues:
        """Store new keys and values of one layer; called by transformers' attention layers.

        Args:
            keys, values: [rows, key heads, new tokens, size], or packed if `unpadded` is set.
            layer_idx: index of the layer.

        Returns:
            All keys and values of the layer that may be visible.
        """
        if self.unpadded is not None:
            keys, values = self.unpadded.pad_heads(keys), self.unpadded.pad_heads(values)
        # Prefill: new keys and values are the whole cache.
        if self._positions is None:
            self._layers[layer_idx] = (keys, values)
            return keys, values
        buffers = self._layers[layer_idx]
        # Decode: one new token per row, each at its own position.
        for buffer, new in zip(buffers, (keys, values), strict=True):
            # Advanced indexing by both rows and positions writes (rows, key heads, size) in place.
            buffer[self._rows, :, self._positions] = new[:, :, 0]
        # Views: attention reads the used part of the buffers, and nothing is copied.
        return buffers[0][:, :, : self._visible], buffers[1][:, :, : self._visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Length of the cache; part of transformers' cache interface."""
        return self._visible or next((keys.shape[2] for keys, _ in self._layers.values()), 0)

    def layers(self) -> list[KeysValues]:
        """Keys and values of every layer, in order."""
        return [self._layers[i] for i in sorted(self._layers)]

    def set_write_positions(self, positions: Tensor, visible: int) -> None:
        """Prepare a decode step.

        Args:
            positions: [rows] where the next token of each row is written.
            visible: number of leading positions that attention looks at.
        """
        self._positions, self._visible = positions, visible
        # The same for all layers of a step, so it is made once.
        self._rows = torch.arange(len(positions), device=positions.device)

    @classmethod
    def merge(cls, parts: Sequence[tuple[KVCache, Sequence[int]]], capacity: int) -> KVCache:
        """A new cache with the given rows of each part, one part after another.

        Layers are removed from the parts as they are copied, so that at most one layer exists twice
        at any time.

        Args:
            parts: caches, and the rows to take from each.
            capacity: positions per row in the new buffers; unwritten ones are zero.
        """
        merged = cls()
        for layer in sorted(parts[0][0]._layers):
            # Popped, so that the old buffers of a layer are freed before those of the next are
            # copied.
            taken = [([cache._layers.pop(layer)], rows) for cache, rows in parts]
            merged._layers[layer] = gather_rows(taken, capacity)[0]
        return merged


def gather_rows(
    parts: Sequence[tuple[Sequence[KeysValues], Sequence[int]]], capacity: int
) -> list[KeysValues]:
    """Copy rows of several caches into new buffers, for every layer.

    Args:
        parts: keys and values of all layers, and the rows to take, for each cache.
        capacity: positions per row in the new buffers; unwritten ones are zero.
    """
    return [
        (
            _gather([(layers[i][0], rows) for layers, rows in parts], capacity),
            _gather([(layers[i][1], rows) for layers, rows in parts], capacity),
        )
        for i in range(len(parts[0][0]))
    ]


def _gather(parts: Sequence[tuple[Tensor, Sequence[int]]], capacity: int) -> Tensor:
    first = parts[0][0]  # (rows, key heads, length, size)
    # Zeros and not empty memory: NaN in unwritten positions would survive a mask (0 · NaN).
    out = first.new_zeros(
        sum(len(rows) for _, rows in parts), first.shape[1], capacity, first.shape[3]
    )
    start = 0
    for cached, rows in parts:
        # Once long rows have finished, the new buffers may be shorter than the old ones.
        width = min(capacity, cached.shape[2])
        out[start : start + len(rows), :, :width] = cached[:, :, :width].index_select(
            0, upload_numbers(rows, cached.device)
        )
        start += len(rows)
    return out
