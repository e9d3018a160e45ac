"""Attention that sees a prefix shared by all rows without copying it, and never repeats keys for grouped queries.

Registered with transformers under the name `NAME`, it is what the layers of any model call. Scores over the
prefix are one matrix product of all rows' queries with the prefix's keys; those over a row's own keys are a
batch of products; one softmax runs over both. Numerically this is ordinary attention over prefix and row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.batches import Squeezed
from prooftune.engine.flat import Blocks, attend_line

NAME = "shared-prefix"

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, key heads, length, head size]."""


@dataclass(slots=True)
class Sight:
    """What the queries of one forward pass may look at, the same for all layers but for sliding windows.

    Attributes:
        allowed: True where a query may look, [rows or 1, queries, own keys].
        query_positions, key_positions: [rows or 1, queries] and [rows or 1, own keys], counted with the prefix.
        prefix: keys and values of the shared prefix for each layer, of one row; None without one.
        squeezed: how the layers' tokens are set out in rows; None where they are.
        own_keys: whether keys and values come as the queries do; otherwise a cache has set them out.
    """

    allowed: Tensor
    query_positions: Tensor
    key_positions: Tensor
    prefix: Sequence[KeysValues] | None = None
    squeezed: Squeezed | None = None
    own_keys: bool = True
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Additive masks over own keys [rows or 1, 1, queries, keys] and over the prefix (None: all of it is seen).

        Layers with a sliding window of W see the last W positions only.
        """
        key = (window, dtype)
        if key not in self._masks:
            own, beyond = self.allowed, None
            length = self.prefix[0][0].shape[2] if self.prefix else 0
            if window is not None:
                own = own & (self.query_positions[:, :, None] - self.key_positions[:, None, :] < window)
                if length and int(self.query_positions.max()) >= window:
                    places = torch.arange(length, device=own.device)
                    beyond = _additive(self.query_positions[:, :, None] - places < window, dtype)
            self._masks[key] = _additive(own, dtype), beyond
        return self._masks[key]


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, scaling: float,
    dropout: float = 0.0, softcap: float | None = None, sliding_window: int | None = None, sight: Sight | Blocks | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of one layer.

    Args:
        module: the layer, for its number.
        query: [rows, heads, queries, size]; heads are a multiple of the key heads.
        key, value: of the rows themselves, [rows, key heads, keys, size].
        attention_mask: the library's additive mask [rows, 1, queries, keys], looked at where no `sight` is given: plain
            use of the model outside the engine.
        scaling: factor of the scores.
        dropout: share of the weights left out in training.
        softcap: bound of the scores, as in Gemma 2 (arXiv 2408.00118).
        sliding_window: positions that this layer sees; None: all.
        sight: what may be seen; `Blocks` where the rows stand in one line.

    Returns:
        [rows, queries, heads, size], and None for the weights, which are not kept.
    """
    if isinstance(sight, Blocks):
        return attend_line(query, key, value, sight, scaling, softcap, sliding_window), None
    squeezed = sight.squeezed if sight is not None else None
    if squeezed is not None and sight is not None:
        query = squeezed.set_out(query)
        key, value = (squeezed.set_out(t) if sight.own_keys else t for t in (key, value))
    rows, heads, queries, size = query.shape
    groups = heads // key.shape[1]
    asked = (query * scaling).reshape(rows, key.shape[1], groups * queries, size)
    scores = torch.matmul(asked, key.transpose(2, 3))
    prefix, seen, prefix_mask = None, 0, None
    own_mask: Tensor | None = attention_mask
    if sight is not None:
        own_mask, prefix_mask = sight.masks(sliding_window, scores.dtype)
        prefix = sight.prefix[int(module.layer_idx)] if sight.prefix is not None else None  # type: ignore[arg-type]
    if prefix is not None:
        seen = prefix[0].shape[2]
        # [key heads, rows · groups · queries, size]: one product for all rows.
        together = asked.transpose(0, 1).reshape(key.shape[1], -1, size)
        before = torch.matmul(together, prefix[0][0].transpose(1, 2))
        before = before.view(key.shape[1], rows, groups * queries, seen).transpose(0, 1)
        scores = torch.cat([before, scores], dim=-1)
        own_mask = None if own_mask is None else _joined(prefix_mask, own_mask, seen)
    scores = scores.view(rows, key.shape[1], groups, queries, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    # On 16-bit input the softmax computes in float32 by itself and rounds once.
    weights = torch.softmax(scores if own_mask is None else scores + own_mask[:, :, None], dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    weights = weights.view(rows, key.shape[1], groups * queries, -1)
    out = torch.matmul(weights[..., seen:], value)
    if prefix is not None:
        together = weights[..., :seen].transpose(0, 1).reshape(key.shape[1], -1, seen)
        of_prefix = torch.matmul(together, prefix[1][0]).view(key.shape[1], rows, groups * queries, size)
        out = out + of_prefix.transpose(0, 1)
    out = out.view(rows, heads, queries, size).transpose(1, 2)
    return (out if squeezed is None else squeezed.line(out)), None


def options(sight: Sight | Blocks) -> dict[str, Any]:
    """What a model's body takes for its layers to look through `sight`. The mask is there so that none is made."""
    return {"sight": sight, "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool), "use_cache": False}


def register() -> None:
    """Make the attention known to transformers, with the masks of the eager one for use outside the engine."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)


def _joined(prefix_mask: Tensor | None, own_mask: Tensor, seen: int) -> Tensor:
    if prefix_mask is None:
        prefix_mask = own_mask.new_zeros(*own_mask.shape[:3], seen)
    rows = max(len(prefix_mask), len(own_mask))
    return torch.cat([prefix_mask.expand(rows, -1, -1, -1), own_mask.expand(rows, -1, -1, -1)], dim=-1)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
