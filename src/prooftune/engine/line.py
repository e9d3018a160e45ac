"""Rows laid one after another without padding, a shared prefix before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FULL = 32
"""Tokens whose multiples lines have."""


@dataclass(frozen=True, slots=True)
class Line:
    """Rows in one line.

    Attributes:
        input_ids, position_ids: [1, prefix + tokens of all rows]; positions begin again after the prefix with every row.
        lengths: [rows] tokens of each row; one that fills the line up may come last.
        read: [n] places in the line whose hidden states are read.
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    read: Tensor


def lay(prefix: Sequence[int], rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]]) -> Line:
    """Lay rows behind their common prefix; `read` gives, per row, the places within the row to read.

    A row of a few tokens that nobody reads fills the line up: on a processor the kernels of the products are made for every number
    of tokens, and what is made for each new number is never in the place of what was there before.
    """
    shared = len(prefix)
    ids, positions, places = list(prefix), list(range(shared)), []
    for row, wanted in zip(rows, read, strict=True):
        places += [len(ids) + place for place in wanted]
        ids += row
        positions += range(shared, shared + len(row))
    filling = -len(ids) % FULL
    if filling:
        ids += [0] * filling
        positions += range(shared, shared + filling)
        rows = [*rows, [0] * filling]
    return Line(torch.tensor([ids]), torch.tensor([positions]), torch.tensor([len(row) for row in rows]),
                torch.tensor(places, dtype=torch.long))
