"""Sequence packing for training: rows concatenated without padding behind a shared prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD_MULTIPLE = 32
"""Packed batches are padded to a multiple of this many tokens."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows packed into one sequence of tokens.

    Attributes:
        input_ids, position_ids: [1, prefix + tokens of all rows]; the positions of every row start
            after the prefix.
        lengths: tokens of each row; the last one includes the padding at the end. They stay on the
            host, where the layout of the batch is computed.
        logit_positions: [n] indices into the packed sequence whose hidden states (and logits) are
            needed.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    logit_positions: Tensor


def pack_sequences(
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    logit_positions: Sequence[Sequence[int]],
    multiple: int = PAD_MULTIPLE,
) -> PackedBatch:
    """Pack rows behind their common prefix.

    The packed sequence is padded at its end to a multiple of `multiple` tokens: on CPUs, oneDNN
    compiles a matmul kernel for every number of tokens, which takes time, and its cached kernels
    fragment the heap so that large arrays no longer fit.

    Args:
        prefix: token ids that all rows start with.
        rows: token ids of each row after the prefix.
        logit_positions: per row, the positions within the row whose hidden states are needed.
        multiple: of tokens in the packed sequence.
    """
    prefix_length = len(prefix)
    ids, positions, packed_positions = list(prefix), list(range(prefix_length)), []
    # Indices count from the start of the packed sequence, so they are shifted by what precedes the
    # row.
    for row, own in zip(rows, logit_positions, strict=True):
        packed_positions += [len(ids) + position for position in own]
        ids += row
        # Every row continues the prefix: positions start again behind it, as if the row stood
        # alone.
        positions += range(prefix_length, prefix_length + len(row))
    padding, lengths = -len(ids) % multiple, [len(row) for row in rows]
    # Any id will do: nothing reads the hidden states of padding.
    ids += [0] * padding
    # Padding belongs to the last row, behind its tokens, where the causal mask hides it from them.
    # Repeating the last position stays within the context that RoPE was made for.
    positions += positions[-1:] * padding
    lengths[-1] += padding
    return PackedBatch(
        torch.tensor([ids]),
        torch.tensor([positions]),
        tuple(lengths),
        torch.tensor(packed_positions, dtype=torch.long),
    )
