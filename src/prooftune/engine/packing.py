"""Rows laid one after another without padding, a shared prefix before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD_MULTIPLE = 32
"""Tokens whose multiples lines have."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows in one line.

    Attributes:
        input_ids, position_ids: [1, prefix + tokens of all rows]; positions begin again after the
            prefix with every row.
        lengths: [rows] tokens of each row, the last one's with what fills the line up.
        read: [n] places in the line whose hidden states are read.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    logit_positions: Tensor


def pack_sequences(
    prefix: Sequence[int], rows: Sequence[Sequence[int]], logit_positions: Sequence[Sequence[int]]
) -> PackedBatch:
    """Lay rows behind their common prefix; `read` gives, per row, the places within the row to
    read.

    A few tokens that nobody reads or sees, behind the last row, fill the line up: on a processor
    the products' kernels are made for every number of tokens anew, which takes time, and what they
    leave in memory keeps large arrays from fitting there.
    """
    shared = len(prefix)
    ids, positions, places = list(prefix), list(range(shared)), []
    for row, wanted in zip(rows, logit_positions, strict=True):
        places += [len(ids) + place for place in wanted]
        ids += row
        positions += range(shared, shared + len(row))
    filling, lengths = -len(ids) % PAD_MULTIPLE, [len(row) for row in rows]
    ids += [0] * filling
    positions += positions[-1:] * filling
    lengths[-1] += filling
    return PackedBatch(
        torch.tensor([ids]),
        torch.tensor([positions]),
        torch.tensor(lengths),
        torch.tensor(places, dtype=torch.long),
    )
