"""Keys and values of tokens that were read before, kept by the layers of a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prooftune.engine.batches import Squeezed
from prooftune.engine.sight import KeysValues


class Kept:
    """What transformers asks of a cache, over buffers that are written in place.

    Growing a tensor by one token means copying all of it, for every layer and every step; a buffer with room
    for the tokens to come is written where they go.

    Attributes:
        length: tokens held, the same for all layers.
        squeezed: how the tokens that come now are set out in rows; None where they are.
    """

    def __init__(self, room: int = 0) -> None:
        """`room`: tokens that will follow the first update."""
        self.squeezed: Squeezed | None = None
        self._room = room
        self._layers: dict[int, KeysValues] = {}
        self._filled: dict[int, int] = {}

    @property
    def length(self) -> int:
        return next(iter(self._filled.values()), 0)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> KeysValues:
        """Add keys and values [rows, key heads, new, size] of one layer, and give back all it has."""
        if self.squeezed is not None:
            keys, values = self.squeezed.set_out(keys), self.squeezed.set_out(values)
        start, new = self._filled.get(layer_idx, 0), keys.shape[2]
        if layer_idx not in self._layers:
            shape = (*keys.shape[:2], new + self._room, keys.shape[3])
            self._layers[layer_idx] = (keys.new_empty(shape), values.new_empty(shape)) if self._room else (keys, values)
        buffers = self._layers[layer_idx]
        if self._room:
            for buffer, added in zip(buffers, (keys, values), strict=True):
                buffer[:, :, start : start + new] = added
        self._filled[layer_idx] = start + new
        return buffers[0][:, :, : start + new], buffers[1][:, :, : start + new]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._filled.get(layer_idx, 0)

    def layers(self) -> list[KeysValues]:
        """Keys and values of every layer, in order."""
        return [self._layers[i] for i in sorted(self._layers)]

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all rows but these, in this order."""
        for i, (keys, _) in self._layers.items():
            self._layers[i] = self._taken(i, rows, keys.shape[2] - self._filled[i])

    def _taken(self, layer: int, rows: Tensor, room: int) -> KeysValues:
        filled, fresh = self._filled[layer], []
        for buffer in self._layers[layer]:
            other = buffer.new_empty(len(rows), buffer.shape[1], filled + room, buffer.shape[3])
            other[:, :, :filled] = buffer[rows, :, :filled]
            fresh.append(other)
        return fresh[0], fresh[1]
