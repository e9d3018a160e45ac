"""Attention masks of padded rows in one forward pass: each row's own keys, and shared prefixes.

Those of packed batches are in `packed_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prooftune.engine.batching import UnpaddedLayout

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, key heads, length, head size]."""


@dataclass(frozen=True, slots=True)
class PrefixGroups:
    """Assignment of rows to one of several shared prefixes.

    Attributes:
        group_ids: [rows] group of each row.
        prefix_lengths: [groups] tokens of each group's prefix; the rest is padding.
        row_index: [groups, largest group] row numbers of each group; arbitrary at padding.
        inverse_index: [rows] index of each row in the flattened `row_index`.
    """

    group_ids: Tensor
    prefix_lengths: Tensor
    row_index: Tensor
    inverse_index: Tensor

    @classmethod
    def from_ids(cls, group_ids: Tensor, prefix_lengths: Tensor) -> PrefixGroups:
        """Build the index from ascending group ids [rows] and prefix lengths [groups]."""
        counts = torch.bincount(group_ids, minlength=len(prefix_lengths))  # (groups,)
        largest, rows = int(counts.max()), torch.arange(len(group_ids), device=group_ids.device)
        # Rows of a group are neighbours: a row's index in its group is its distance to the first
        # one.
        inverse = group_ids * largest + rows - (counts.cumsum(0) - counts)[group_ids]
        row_index = torch.zeros(
            len(prefix_lengths) * largest, dtype=torch.long, device=group_ids.device
        )
        # Rows of smaller groups leave places that point to row 0, whose outputs are not read.
        row_index[inverse] = rows
        return cls(group_ids, prefix_lengths, row_index.view(len(prefix_lengths), largest), inverse)


@dataclass(slots=True)
class AttentionContext:
    """What the queries of one forward pass may attend to; the same for all layers.

    Layers differ only by their sliding window, for which `masks` has a parameter.

    Attributes:
        allowed: [rows or 1, queries, own keys], True where a query may attend to a key: the causal
            mask, or that of a label tree.
        query_positions, key_positions: [rows or 1, queries] and [rows or 1, own keys], counted from
            the start of the prefix.
        prefix: keys and values of the shared prefix for each layer, for one row or for several
            groups; None without a prefix.
        groups: which row sees which prefix; None if there is a single prefix.
        unpadded: layout of the tokens if the layers run on packed tokens; None if they run on
            padded rows.
        keys_unpadded: whether keys and values are packed like the queries; False if a KV cache has
            padded them already.
        last_position: largest of the query positions, where the host knows it.
    """

    allowed: Tensor
    query_positions: Tensor
    key_positions: Tensor
    prefix: Sequence[KeysValues] | None = None
    groups: PrefixGroups | None = None
    unpadded: UnpaddedLayout | None = None
    keys_unpadded: bool = True
    last_position: int | None = None
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor, Tensor | None]] = field(
        default_factory=dict
    )
    _self_masks: dict[tuple[int | None, torch.dtype, int], Tensor] = field(default_factory=dict)
    _prefix_masks: dict[tuple[int | None, torch.dtype, int], Tensor | None] = field(
        default_factory=dict
    )

    def masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Additive masks over own keys and over the prefix.

        Args:
            window: positions that a sliding-window layer attends to. None: all.
            dtype: of the masks.

        Returns:
            [rows or 1, 1, queries, keys] over the own keys, and the same over the prefix, or None
            if all of the prefix is visible.
        """
        key = (window, dtype)
        if key not in self._masks:
            # `visible` stays None while the whole prefix is: then no mask has to be added to its
            # scores.
            own, visible = self.allowed, None
            positions = torch.arange(
                self.prefix[0][0].shape[2] if self.prefix else 0, device=own.device
            )
            if self.groups is not None:
                # Shorter prefixes are padded to the longest one.
                visible = (positions < self.groups.prefix_lengths[self.groups.group_ids, None])[
                    :, None
                ].expand(-1, own.shape[1], -1)
            if window is not None:
                # Distances are of positions and not of indices, since the tokens of a label tree
                # share positions.
                own = own & (
                    self.query_positions[:, :, None] - self.key_positions[:, None, :] < window
                )
                # A window that reaches back over the whole prefix hides nothing of it.
                last = self.last_position
                if len(positions) and last is None:
                    last = int(self.query_positions.max())
                if len(positions) and last is not None and last >= window:
                    near = self.query_positions[:, :, None] - positions < window
                    visible = near if visible is None else near & visible
            self._masks[key] = (
                additive_mask(own, dtype)[:, None],
                None if visible is None else additive_mask(visible, dtype)[:, None],
            )
        return self._masks[key]

    def expanded_self_mask(self, window: int | None, dtype: torch.dtype, repeats: int) -> Tensor:
        """Mask over own keys for `repeats` query heads per key head, one after another (GQA)."""
        key = (window, dtype, repeats)
        # Layers of one kind share their mask; building it per layer would cost as much as short
        # rows' attention.
        if key not in self._self_masks:
            self._self_masks[key] = self.masks(window, dtype)[0].repeat(1, 1, repeats, 1)
        return self._self_masks[key]

    def prefix_mask(self, window: int | None, dtype: torch.dtype, repeats: int) -> Tensor | None:
        """Mask over the prefix for such queries, folded into groups; None if all is visible."""
        key = (window, dtype, repeats)
        if key not in self._prefix_masks:
            visible = self.masks(window, dtype)[1]
            if visible is not None:
                visible = self.fold_into_groups(
                    visible.expand(len(self.query_positions), -1, -1, -1).repeat(1, 1, repeats, 1)
                )
            self._prefix_masks[key] = visible
        return self._prefix_masks[key]

    def fold_into_groups(self, queries: Tensor) -> Tensor:
        """Concatenate the queries of all rows that see the same prefix.

        [rows, key heads, m, size] -> [groups, key heads, rows per group x m, size].
        """
        if self.groups is None:
            return queries.transpose(0, 1).reshape(1, queries.shape[1], -1, queries.shape[3])
        taken = queries[self.groups.row_index]  # [groups, largest group, key heads, m, size]
        return taken.transpose(1, 2).reshape(len(taken), queries.shape[1], -1, queries.shape[3])

    def unfold_from_groups(self, outputs: Tensor, rows: int) -> Tensor:
        """Undo `fold_into_groups` for the attention outputs.

        [groups, key heads, rows per group x m, k] -> [rows, key heads, m, k].
        """
        heads, k = outputs.shape[1], outputs.shape[3]
        if self.groups is None:
            return outputs.view(heads, rows, -1, k).transpose(0, 1)
        per_row = outputs.view(
            len(outputs), heads, self.groups.row_index.shape[1], -1, k
        ).transpose(1, 2)
        return per_row.flatten(0, 1)[self.groups.inverse_index]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask to add to attention scores: 0 where allowed, the dtype's minimum elsewhere."""
    # The minimum and not -inf: a row of padding that sees nothing would get NaN from the softmax.
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )
