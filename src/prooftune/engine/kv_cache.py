"""Keys and values of tokens that were read before, kept by the layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prooftune.engine.attention.masks import KeysValues
from prooftune.engine.batching import UnpaddedLayout


class KVCache:
    """What transformers asks of a cache, over buffers that are written in place.

    Growing a tensor by one token means copying all of it, for every layer and every step; a buffer
    with room for the tokens to come is written where they go. Each row's tokens stand from its
    first place on, whatever the others have.

    Attributes:
        squeezed: how the tokens that come now are set out in rows; None where they are.
    """

    def __init__(self) -> None:
        self.squeezed: UnpaddedLayout | None = None
        self._layers: dict[int, KeysValues] = {}
        self._places: Tensor | None = (
            None  # [rows] where the next token of each goes; None where many come, the first ones
        )
        self._rows: Tensor | None = None
        self._seen = 0

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> KeysValues:
        """Add keys and values [rows, key heads, new, size] of one layer, and give back all that may
        be seen of it."""
        if self.squeezed is not None:
            keys, values = self.squeezed.set_out(keys), self.squeezed.set_out(values)
        if self._places is None:
            self._layers[layer_idx] = (keys, values)
            return keys, values
        buffers = self._layers[layer_idx]
        for buffer, added in zip(buffers, (keys, values), strict=True):
            buffer[self._rows, :, self._places] = added[:, :, 0]
        return buffers[0][:, :, : self._seen], buffers[1][:, :, : self._seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._seen or next((keys.shape[2] for keys, _ in self._layers.values()), 0)

    def layers(self) -> list[KeysValues]:
        """Keys and values of every layer, in order."""
        return [self._layers[i] for i in sorted(self._layers)]

    def set_write_positions(self, places: Tensor, seen: int) -> None:
        """One token of every row comes next, to these places [rows]; the first `seen` places are
        looked at."""
        self._places, self._seen = places, seen
        self._rows = torch.arange(len(places), device=places.device)

    @classmethod
    def of(cls, parts: Sequence[tuple[KVCache, Sequence[int]]], room: int) -> KVCache:
        """These rows of each, one after another, with `room` places each, of which the unwritten
        are zero.

        The layers are taken out of the parts, so that no more than one of them is there twice at
        any time.
        """
        fresh = cls()
        for layer in sorted(parts[0][0]._layers):
            taken = [([one._layers.pop(layer)], rows) for one, rows in parts]
            fresh._layers[layer] = together(taken, room)[0]
        return fresh


def together(
    parts: Sequence[tuple[Sequence[KeysValues], Sequence[int]]], room: int
) -> list[KeysValues]:
    """For every layer, keys and values of these rows of each part, one after another, in arrays
    with `room` places."""
    return [
        (
            _stacked([(layers[i][0], rows) for layers, rows in parts], room),
            _stacked([(layers[i][1], rows) for layers, rows in parts], room),
        )
        for i in range(len(parts[0][0]))
    ]


def _stacked(parts: Sequence[tuple[Tensor, Sequence[int]]], room: int) -> Tensor:
    first = parts[0][0]
    out = first.new_zeros(sum(len(rows) for _, rows in parts), first.shape[1], room, first.shape[3])
    start = 0
    for held, rows in parts:
        width = min(room, held.shape[2])
        out[start : start + len(rows), :, :width] = held[:, :, :width].index_select(
            0, torch.tensor(rows, device=held.device)
        )
        start += len(rows)
    return out
