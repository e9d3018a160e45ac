"""Where the tokens of a packed batch are, and which blocks of its attention matrix FlexAttention
computes.

    keys       prefix · row 1 · row 2 · … · row n
    queries    the same, or the rows only if the prefix is cached

A row may end in a label tree (`scoring`): the tokens of several labels, each of which sees its own
ancestors only. Which blocks of the attention matrix are computed follows from the lengths of prefix
and rows, so it is worked out on the host, without waiting for the device (Dong et al. 2024,
FlexAttention, arXiv 2412.05496).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from prooftune.engine.attention.padded_masks import KeysValues
from prooftune.engine.uploads import upload

# The default of PyTorch's `create_block_mask`.
BLOCK = 128
"""Queries and keys of a block of the attention matrix."""

Index = NDArray[np.int32]


@dataclass(slots=True)
class FlexLayout:
    """Positions of prefix, rows and label trees among the keys, the same for all layers.

    Attributes:
        prefix_length: tokens of the shared prefix.
        lengths: tokens of each row, those of its tree included.
        device: of the batch.
        tree_parents: index of each tree node's parent among the nodes, -1 for the end of the row's
            text; parents come before children. The nodes are the last tokens of every row.
        prefix: cached keys and values of the prefix for each layer; None if the prefix's tokens
            are part of the batch.
    """

    prefix_length: int
    lengths: Sequence[int]
    device: torch.device
    tree_parents: Sequence[int] = ()
    prefix: Sequence[KeysValues] | None = None
    _masks: dict[tuple[int | None, int], BlockMask] = field(default_factory=dict)

    def block_mask(self, window: int | None, tokens: int) -> BlockMask:
        """The block mask of layers of one kind; built once.

        Args:
            window: positions that a sliding-window layer attends to. None: all.
            tokens: number of queries.
        """
        if window is not None and window >= self.prefix_length + max(self.lengths):
            window = None  # it hides nothing
        if (window, tokens) not in self._masks:
            self._masks[window, tokens] = _block_mask(self, window, tokens)
        return self._masks[window, tokens]

    def keys(self) -> tuple[Index, Index, Index]:
        """For each key: its row (0: the prefix), its position, and its tree node (0: none)."""
        count, nodes = len(self.lengths), len(self.tree_parents)
        lengths = np.asarray(self.lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.repeat(np.arange(1, count + 1), lengths)
        # (tokens,): index of each token within its row.
        index = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        # 1 for the first node of a row's tree.
        node = np.maximum(0, index - np.repeat(lengths - nodes, lengths) + 1)
        depths = _depths(self.tree_parents)
        # Siblings share a position, as if each label alone followed the row's text.
        positions = np.where(
            node > 0, np.repeat(lengths - nodes, lengths) - 1 + depths[node], index
        )
        prefix = np.arange(self.prefix_length)
        return (
            np.concatenate([np.zeros_like(prefix), rows]).astype(np.int32),
            np.concatenate([prefix, positions + self.prefix_length]).astype(np.int32),
            np.concatenate([np.zeros_like(prefix), node]).astype(np.int32),
        )


def _depths(parents: Sequence[int]) -> NDArray[np.int64]:
    """Depth of every node, behind a 0 for tokens outside the tree."""
    depths = [0]
    for parent in parents:
        depths.append(depths[parent + 1] + 1)
    return np.asarray(depths)


def _ancestors(parents: Sequence[int]) -> NDArray[np.bool_]:
    """[1 + nodes, 1 + nodes], True where the column is the row's node or one of its ancestors.

    Index 0 stands for all tokens outside the tree, which every node sees.
    """
    visible = np.eye(len(parents) + 1, dtype=bool)
    visible[:, 0] = True
    for node, parent in enumerate(parents, 1):
        visible[node] |= visible[parent + 1]
    return visible


def _block_mask(layout: FlexLayout, window: int | None, tokens: int) -> BlockMask:
    rows, positions, nodes = layout.keys()
    # Padding at the end of the queries, where a batch is filled up, sees itself only.
    first_query = layout.prefix_length if layout.prefix is not None else 0
    total = first_query + tokens
    rows, positions, nodes = (
        np.pad(t, (0, total - len(t)), constant_values=value)
        for t, value in ((rows, len(layout.lengths) + 1), (positions, 0), (nodes, 0))
    )
    partial_blocks, full_blocks = visible_blocks(rows, positions, nodes, first_query, window)
    # From the host's memory; the sorted lists of blocks are made there too.
    host = BlockMask.from_kv_blocks(
        *_block_lists(partial_blocks),
        *_block_lists(full_blocks),
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_mod(layout, rows, positions, nodes, first_query, window),
        seq_lengths=(tokens, total),
    )
    # As `BlockMask.to`, which would wait for the device once per tensor.
    mask = copy.copy(host)
    for name, value in vars(host).items():
        if isinstance(value, Tensor):
            setattr(mask, name, upload(value, layout.device))
    return mask


def visible_blocks(
    rows: Index, positions: Index, nodes: Index, first_query: int, window: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Blocks of the attention matrix that are computed with a mask, and without one.

    A block is left out only if no query in it sees any of its keys; it is computed without a mask
    only if every query sees all keys. In between the mask decides, so bounds by block suffice.

    Args:
        rows, positions, nodes: of every key (see `FlexLayout.keys`), rows in ascending order.
        first_query: index of the first query among the keys.
        window: positions that a query attends to. None: all.

    Returns:
        Two [query blocks, key blocks]; no block is in both.
    """
    order = np.arange(len(rows))

    def bounds(values: NDArray[Any], first: int) -> tuple[NDArray[Any], NDArray[Any]]:
        starts = np.arange(0, len(values) - first, BLOCK)
        return (
            np.minimum.reduceat(values[first:], starts),
            np.maximum.reduceat(values[first:], starts),
        )

    key_low, key_high = bounds(order, 0)
    query_low, query_high = bounds(order, first_query)
    key_row, key_last_row = bounds(rows, 0)
    query_row, query_last_row = bounds(rows, first_query)
    key_position, key_last_position = bounds(positions, 0)
    query_position, query_last_position = bounds(positions, first_query)
    in_tree = bounds(nodes, 0)[1] > 0
    causal = key_low[None] <= query_high[:, None]
    # Rows ascend, so a row is in both blocks if their ranges overlap.
    same_row = (key_last_row[None] >= query_row[:, None]) & (
        key_row[None] <= query_last_row[:, None]
    )
    visible = causal & (same_row | (key_row[None] == 0))
    # The same single row on both sides: no boundary between rows inside the block.
    one_row = (
        (key_row == key_last_row)[None]
        & (query_row == query_last_row)[:, None]
        & (key_row[None] == query_row[:, None])
    )
    full = (key_high[None] <= query_low[:, None]) & (one_row | (key_last_row[None] == 0))
    # Siblings in a tree do not see each other, so keys of a tree always need the mask.
    full = full & ~in_tree[None]
    if window is not None:
        # The nearest query and key decide whether anything is visible, the farthest whether all is.
        visible &= query_position[:, None] - key_last_position[None] < window
        full &= query_last_position[:, None] - key_position[None] < window
    full &= visible
    return visible & ~full, full


def _block_lists(blocks: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Number of blocks of each query block, and their key blocks in front of all others."""
    # Inverted, because False sorts first: visible blocks come first, in ascending order.
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    counts = blocks.sum(1).astype(np.int32)
    return torch.from_numpy(counts)[None, None], torch.from_numpy(order)[None, None]


def _mask_mod(
    layout: FlexLayout,
    rows: Index,
    positions: Index,
    nodes: Index,
    first_query: int,
    window: int | None,
) -> Callable[..., Tensor]:
    """Whether a query sees a key, by arrays on the device.

    The function captures no numbers and few arrays. With dynamic shapes every captured number and
    every dimension becomes a variable of the compiled kernel, and PyTorch 2.13's kernel for CPUs
    may confuse one of them with the size of a block: it renames that variable by text replacement,
    and both may be called ks16, say (`CppFlexAttentionTemplate.modification`). A window of 16 then
    acted as one of 128. Triton's kernel has no such replacement, but fewer variables there, too.
    """
    order = np.arange(len(rows), dtype=np.int32)
    # Without a window every position is visible, by the same kernel.
    earliest = positions - window + 1 if window is not None else np.zeros_like(positions)
    # One upload for all of them.
    stacked = torch.from_numpy(np.stack([order, rows, positions, nodes, earliest]))
    keys = upload(stacked, layout.device)
    # A separate array for queries: a number in the function would be compiled into the kernel.
    queries = keys[:, first_query:]

    def mask(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        key_row = keys[1, key]
        return (
            (keys[0, key] <= queries[0, query])
            & ((key_row == 0) | (key_row == queries[1, query]))
            & (keys[2, key] >= queries[4, query])
        )

    if not layout.tree_parents:
        return mask
    ancestors = upload(torch.from_numpy(_ancestors(layout.tree_parents)), layout.device)

    def tree(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask(b, h, query, key) & ancestors[queries[3, query], keys[3, key]]

    return tree
