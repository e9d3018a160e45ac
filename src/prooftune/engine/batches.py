"""How rows are laid out for one forward pass: batches by tokens, padded rows, and lines that rows share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LINE = 320
"""Tokens of a training line (`pack`)."""



@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that share a prefix, right-padded.

    Attributes:
        input_ids: [rows, length] ids after the shared prefix; padding has id 0 and is masked by position.
        attention_mask: [rows, length] 1 where a token stands, or [rows, 1, length, prefix + length] True
            where a token may look, for trees of labels.
        position_ids: [rows, length] positions, counted with the prefix.
        read: [n] places in the flattened rows x length whose hidden states are read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    read: Tensor


def by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that a batch, padded to its longest row, has at most `budget` tokens.

    Returns:
        Row numbers per batch, longest rows first (so that memory peaks at once, not at the end). A row longer
        than the budget has a batch of its own. The same lengths always give the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = max(1, lengths[i])
    return batches


def collate(
    rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]], prefix_length: int, device: torch.device | None = None
) -> Batch:
    """Right-pad `rows`; `read` gives, per row, the places within the row to read."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    places = [i * length + place for i, per_row in enumerate(read) for place in per_row]
    positions = (torch.arange(length) + prefix_length).expand(len(rows), -1)
    batch = Batch(ids, mask, positions, torch.tensor(places))
    return to_device(batch, device) if device is not None else batch


def pack(prefix: Sequence[int], rows: Sequence[Sequence[int]], read: Sequence[Sequence[int]], capacity: int = LINE) -> Batch:
    """Lay rows one after another in lines that begin with the prefix; each row sees the prefix and itself.

    Batches drawn at random hold rows of very different lengths: padding them all to the longest would double the
    work, and repeating the prefix before each row would, too. The read positions keep the order of `rows`.

    Args:
        prefix: ids that all rows begin with.
        rows: ids after the prefix.
        read: per row, the places within the row to read.
        capacity: tokens of a line; more where the longest row or the prefix asks for it. Short lines repeat the prefix
            often, long ones pay for attention that is masked; the default is the best of what was measured.
    """
    shared = len(prefix)
    capacity = max(capacity, 3 * shared, shared + max(len(row) for row in rows))
    lines = _lines([len(row) for row in rows], capacity - shared)
    length = shared + max(sum(len(rows[i]) for i in line) for line in lines)
    ids = torch.zeros(len(lines), length, dtype=torch.long)
    positions = torch.zeros(len(lines), length, dtype=torch.long)
    owner = torch.full((len(lines), length), -1)
    ids[:, :shared] = torch.tensor(list(prefix), dtype=torch.long)
    positions[:, :shared] = torch.arange(shared)
    places: dict[int, list[int]] = {}
    for n, line in enumerate(lines):
        start = shared
        for i in line:
            end = start + len(rows[i])
            ids[n, start:end] = torch.tensor(rows[i])
            positions[n, start:end] = torch.arange(len(rows[i])) + shared
            owner[n, start:end] = i
            places[i] = [n * length + start + place for place in read[i]]
            start = end
    # Padding sees the prefix and itself: a position that sees nothing at all would be not-a-number.
    own = owner[:, :, None] == owner[:, None, :]
    own[:, :, :shared] = True
    mask = (own & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return Batch(ids, mask, positions, torch.tensor([place for i in range(len(rows)) for place in places[i]]))


def _lines(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Row numbers of each line: first fit in order of falling length."""
    capacity = max(capacity, *lengths)
    lines: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((n for n, left in enumerate(room) if left >= lengths[i]), None)
        if line is None:
            lines.append([])
            room.append(capacity)
            line = len(lines) - 1
        lines[line].append(i)
        room[line] -= lengths[i]
    return lines


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(getattr(batch, name).to(device) for name in Batch.__slots__))
