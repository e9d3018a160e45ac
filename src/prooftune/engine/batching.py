"""How rows are laid out for one forward pass of scoring: batches by tokens, padded for attention
alone. For training see `line`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIKE = 32
"""Tokens that rows must share at least to be worth it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that share a prefix, right-padded.

    Attributes:
        input_ids: [rows, length] ids after the shared prefix; padding has id 0 and is masked by
            position.
        attention_mask: [rows, length] 1 where a token stands, or [rows, 1, length, prefix + length]
            True where a token may look, for trees of labels.
        position_ids: [rows, length] positions, counted with the prefix.
        read: [n] places in the flattened rows x length whose hidden states are read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    logit_positions: Tensor

    @property
    def stands(self) -> Tensor:
        """[rows, length] True where a token stands."""
        mask = self.attention_mask
        if mask.dim() == 2:
            return mask.bool()
        return mask[:, 0, :, -mask.shape[2] :].diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, slots=True)
class UnpaddedLayout:
    """Padded rows laid one after another without their padding, which everything but attention can
    be computed on.

    Attributes:
        rows, length: of the padded rows.
        token: [rows x length] the line's token at each place; at padding, any.
        place: [tokens] of each token of the line, in the flattened rows x length.
    """

    rows: int
    length: int
    token: Tensor
    place: Tensor

    @classmethod
    def of(cls, stands: Tensor) -> UnpaddedLayout | None:
        """For tokens [rows, length] that stand where it says; None where there is too little
        padding to be worth it."""
        rows, length = stands.shape
        place = stands.flatten().nonzero().flatten()
        if _WORTH * (rows * length - len(place)) < rows * length:
            return None
        token = torch.zeros(rows * length, dtype=torch.long, device=stands.device)
        token[place] = torch.arange(len(place), device=stands.device)
        return cls(rows, length, token, place)

    def line(self, values: Tensor) -> Tensor:
        """[rows, length, …] -> [1, tokens, …]."""
        return values.flatten(0, 1).index_select(0, self.place)[None]

    def places_in_line(self, places: Tensor) -> Tensor:
        """Places in the flattened rows x length -> the same tokens' in the line."""
        return self.token[places]

    def set_out(self, line: Tensor) -> Tensor:
        """Heads of a line [1, heads, tokens, size] -> [rows, heads, length, size]."""
        vectors = line[0].transpose(0, 1).index_select(0, self.token)
        return vectors.view(self.rows, self.length, *vectors.shape[1:]).transpose(1, 2)


_WORTH = 32
"""One place in so many has to be padding for rows to be squeezed."""

PADDING_BUDGET = 256
"""Tokens of padding that cost about as much as another batch does, where padding is computed like
all else."""


def batch_by_token_budget(
    lengths: Sequence[int], budget: int, spare: float = PADDING_BUDGET
) -> list[list[int]]:
    """Group rows of similar length so that a batch, padded to its longest row, has at most `budget`
    tokens.

    Args:
        lengths: tokens of each row.
        budget: most tokens of a batch, padding included.
        spare: most tokens of padding in a batch.

    Returns:
        Row numbers per batch, longest rows first (so that memory peaks at once, not at the end). A
        row longer than the budget has a batch of its own. The same lengths always give the same
        batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    longest = padding = 0
    for i in order:
        padding += longest - lengths[i]
        if batches and longest * (len(batches[-1]) + 1) <= budget and padding <= spare:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest, padding = max(1, lengths[i]), 0
    return batches


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Rows that begin with the same tokens, as questions on one text do.

    Attributes:
        numbers: of the rows.
        common: tokens that they all begin with; every row has at least one more.
    """

    row_ids: list[int]
    prefix_length: int


def group_by_common_prefix(rows: Sequence[Sequence[int]]) -> tuple[list[PrefixGroup], list[int]]:
    """PrefixGroups of rows that begin with the same half or more of their tokens, and the numbers of all
    other rows."""
    if not rows:
        return [], []
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    groups: list[PrefixGroup] = []
    rest: list[int] = []
    run, prefix_length = order[:1], 0
    for before, number in zip(order, [*order[1:], -1], strict=True):
        shared = _common(rows[before], rows[number]) if number >= 0 else 0
        shorter = min(len(rows[before]), len(rows[number])) if number >= 0 else 0
        shared = min(shared, shorter - 1, prefix_length or shared)
        if shared >= max(_ALIKE, shorter / 2):
            run, prefix_length = [*run, number], shared
            continue
        if len(run) > 1:
            groups.append(PrefixGroup(run, prefix_length))
        else:
            rest += run
        run, prefix_length = [number], 0
    return groups, sorted(rest)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))


def batch_prefix_groups(
    groups: Sequence[PrefixGroup], lengths: Sequence[int], budget: int
) -> list[list[PrefixGroup]]:
    """Batches of groups of similar length that compute at most `budget` tokens each: the common
    ones of a group once, and each row's own, those to come included. Larger groups are divided."""
    batches: list[list[PrefixGroup]] = []
    computed = 0
    for group in sorted(groups, key=lambda g: (-max(lengths[i] for i in g.row_ids), g.row_ids)):
        begun = False  # whether the group stands in the batch already
        for number in group.row_ids:
            own = lengths[number] - group.prefix_length
            more = own if begun else own + group.prefix_length
            if not batches or computed + more > budget:
                batches.append([])
                begun, computed, more = False, 0, own + group.prefix_length
            if begun:
                batches[-1][-1].row_ids.append(number)
            else:
                batches[-1].append(PrefixGroup([number], group.prefix_length))
            begun, computed = True, computed + more
    return batches


def collate(
    rows: Sequence[Sequence[int]],
    logit_positions: Sequence[Sequence[int]],
    prefix_length: int,
    device: torch.device | None = None,
) -> Batch:
    """Right-pad `rows`; `read` gives, per row, the places within the row to read."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    places = [i * length + place for i, per_row in enumerate(logit_positions) for place in per_row]
    positions = (torch.arange(length) + prefix_length).expand(len(rows), -1)
    batch = Batch(ids, mask, positions, torch.tensor(places, dtype=torch.long))
    return to_device(batch, device) if device is not None else batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(getattr(batch, name).to(device) for name in Batch.__slots__))
