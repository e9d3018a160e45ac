"""Batches for one forward pass: padded rows, grouped by a token budget or by a common prefix.

Used for scoring, prefill and decoding. Training packs its rows instead: see `packing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prooftune.engine.uploads import upload

MIN_COMMON_PREFIX = 32
"""Tokens that rows must share at least for a common prefix to pay off."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows [batch_size, length] that continue the same prefix.

    Attributes:
        input_ids: [rows, length] token ids after the shared prefix; padding has id 0.
        attention_mask: [rows, length], 1 for tokens and 0 for padding; or, for label trees,
            [rows, 1, length, prefix + length], True where a query may attend to a key.
        position_ids: [rows, length] positions, counted from the start of the prefix.
        logit_positions: [n] indices into the flattened rows x length whose hidden states (and
            logits) are needed.
        row_lengths: tokens of each row; None where only the mask has them.
        last_position: largest position of a token; None where only the device has it.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    logit_positions: Tensor
    # On the host: reading them from a GPU would wait for all queued work.
    row_lengths: tuple[int, ...] | None = None
    last_position: int | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        # `dataclasses.asdict` would deep-copy them.
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "logit_positions": self.logit_positions,
        }

    @property
    def token_mask(self) -> Tensor:
        """[rows, length], True for tokens, False for padding."""
        mask = self.attention_mask
        if mask.dim() == 2:
            return mask.bool()
        # Every token attends to itself, padding to nothing.
        return mask[:, 0, :, -mask.shape[2] :].diagonal(dim1=1, dim2=2)


@dataclass(frozen=True, slots=True)
class UnpaddedLayout:
    """Index between padded rows and the same tokens packed without padding.

    Everything but attention runs on the packed tokens.

    Attributes:
        rows, length: shape of the padded rows.
        to_packed: [rows x length] packed index of each padded position; arbitrary at padding.
        to_padded: [tokens] index of each packed token in the flattened rows x length.
    """

    rows: int
    length: int
    to_packed: Tensor
    to_padded: Tensor

    @classmethod
    def of(cls, batch: Batch) -> UnpaddedLayout | None:
        """Layout of a batch; None if too little is padding."""
        rows, length = batch.input_ids.shape
        if batch.row_lengths is None:
            return cls.from_positions(rows, length, batch.token_mask.flatten().nonzero().flatten())
        starts = range(0, rows * length, length)
        to_padded = torch.cat(
            [
                torch.arange(start, start + tokens)
                for start, tokens in zip(starts, batch.row_lengths, strict=True)
            ]
        )
        layout = cls.from_positions(rows, length, to_padded)
        if layout is None:
            return None
        device = batch.input_ids.device
        return cls(rows, length, upload(layout.to_packed, device), upload(layout.to_padded, device))

    @classmethod
    def from_positions(cls, rows: int, length: int, to_padded: Tensor) -> UnpaddedLayout | None:
        """Layout of the tokens at ascending positions; None if too little is padding."""
        # The index lookups cost more than a little padding.
        if _INVERSE_MIN_PADDING * (rows * length - len(to_padded)) < rows * length:
            return None
        # Padding maps to token 0; what is read there is masked or dropped.
        to_packed = torch.zeros(rows * length, dtype=torch.long, device=to_padded.device)
        to_packed[to_padded] = torch.arange(len(to_padded), device=to_padded.device)
        return cls(rows, length, to_packed, to_padded)

    def unpad(self, values: Tensor) -> Tensor:
        """[rows, length, ...] -> [1, tokens, ...]."""
        return values.flatten(0, 1).index_select(0, self.to_padded)[None]

    def packed_positions(self, positions: Tensor) -> Tensor:
        """Indices into the flattened rows x length -> indices of the same tokens when packed."""
        return self.to_packed[positions]

    def pad_heads(self, packed: Tensor) -> Tensor:
        """Packed heads [1, heads, tokens, size] -> [rows, heads, length, size]."""
        vectors = packed[0].transpose(0, 1).index_select(0, self.to_packed)
        return vectors.view(self.rows, self.length, *vectors.shape[1:]).transpose(1, 2)


_INVERSE_MIN_PADDING = 32
"""Rows are unpadded if at least one position in this many is padding."""

PADDING_BUDGET = 256
"""Tokens of padding that cost about as much as one more batch, where padding is computed."""


def batch_by_token_budget(
    lengths: Sequence[int], budget: int, max_padding: float = PADDING_BUDGET
) -> list[list[int]]:
    """Group rows of similar length into batches of at most `budget` tokens, padding included.

    Args:
        lengths: tokens of each row.
        budget: maximum number of tokens in a batch, padded to its longest row.
        max_padding: maximum number of padding tokens in a batch.

    Returns:
        Row numbers per batch, longest rows first, so that memory peaks at the start and not at the
        end. A row longer than the budget gets a batch of its own. Deterministic.
    """
    # The row number breaks ties, so that the same lengths give the same batches.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    longest = padding = 0
    for i in order:
        # Rows come in descending order, so the first of a batch is its longest.
        padding += longest - lengths[i]
        if batches and longest * (len(batches[-1]) + 1) <= budget and padding <= max_padding:
            batches[-1].append(i)
        else:
            batches.append([i])
            # An empty row still takes one position.
            longest, padding = max(1, lengths[i]), 0
    return batches


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Rows with a common prefix, such as several questions about one text.

    Attributes:
        row_ids: numbers of the rows.
        prefix_length: tokens of the common prefix; every row has at least one more.
    """

    row_ids: list[int]
    prefix_length: int


def group_by_common_prefix(
    rows: Sequence[Sequence[int]],
) -> tuple[list[PrefixGroup], list[int]]:
    """Group rows whose common prefix is at least half of their tokens.

    Returns:
        The groups, and the numbers of all other rows.
    """
    if not rows:
        return [], []
    # In lexicographic order, rows with a common prefix are neighbours.
    # O(n log n) instead of comparing all pairs of rows.
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    groups: list[PrefixGroup] = []
    rest: list[int] = []
    run, common = order[:1], 0
    # The -1 at the end closes the last run.
    for previous, row_id in zip(order, [*order[1:], -1], strict=True):
        shared = common_prefix_length(rows[previous], rows[row_id]) if row_id >= 0 else 0
        shorter = min(len(rows[previous]), len(rows[row_id])) if row_id >= 0 else 0
        # Every row keeps a token of its own, whose hidden state gives its first logits; the group
        # shares what all of its rows share.
        shared = min(shared, shorter - 1, common or shared)
        if shared >= max(MIN_COMMON_PREFIX, shorter / 2):
            run, common = [*run, row_id], shared
            continue
        if len(run) > 1:
            groups.append(PrefixGroup(run, common))
        else:
            rest += run
        run, common = [row_id], 0
    return groups, sorted(rest)


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that two rows share."""
    for position, (token, other) in enumerate(zip(a, b, strict=False)):
        if token != other:
            return position
    return min(len(a), len(b))


def batch_prefix_groups(
    groups: Sequence[PrefixGroup], lengths: Sequence[int], budget: int
) -> list[list[PrefixGroup]]:
    """Batch groups of similar length so that each batch computes at most `budget` tokens.

    A group's common prefix counts once, each row's own tokens (including those to be generated) in
    full. Groups larger than the budget are divided.
    """
    batches: list[list[PrefixGroup]] = []
    computed = 0
    # Row ids break ties, so that the same prompts give the same batches.
    for group in sorted(groups, key=lambda g: (-max(lengths[i] for i in g.row_ids), g.row_ids)):
        in_batch = False  # whether the current batch already holds part of this group
        for row_id in group.row_ids:
            own = lengths[row_id] - group.prefix_length
            cost = own if in_batch else own + group.prefix_length
            if not batches or computed + cost > budget:
                batches.append([])
                in_batch, computed, cost = False, 0, own + group.prefix_length
            if in_batch:
                batches[-1][-1].row_ids.append(row_id)
            else:
                batches[-1].append(PrefixGroup([row_id], group.prefix_length))
            in_batch, computed = True, computed + cost
    return batches


def collate(
    rows: Sequence[Sequence[int]],
    logit_positions: Sequence[Sequence[int]],
    prefix_length: int,
    device: torch.device | None = None,
) -> Batch:
    """Right-pad rows into a `Batch`.

    Args:
        rows: token ids after the shared prefix.
        logit_positions: per row, the positions within the row whose hidden states are needed.
        prefix_length: tokens of the shared prefix, where positions start.
        device: of the batch. Default: the CPU.
    """
    length = max(len(row) for row in rows)
    # Id 0 is an ordinary token: the mask makes it padding, not the id.
    ids = torch.zeros(len(rows), length, dtype=torch.long)  # (rows, length)
    mask = torch.zeros(len(rows), length, dtype=torch.long)  # (rows, length)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    # Logits are gathered from flattened hidden states, so one index per position is enough.
    flat = [i * length + position for i, own in enumerate(logit_positions) for position in own]
    # Padding gets positions too; nothing attends to it.
    positions = (torch.arange(length) + prefix_length).expand(len(rows), -1)  # (rows, length)
    batch = Batch(
        ids,
        mask,
        positions,
        torch.tensor(flat, dtype=torch.long),
        tuple(len(row) for row in rows),
        prefix_length + length - 1,
    )
    return to_device(batch, device) if device is not None else batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move all tensors of a batch to a device."""
    uploaded = {name: upload(tensor, device) for name, tensor in batch.tensors().items()}
    return Batch(**uploaded, row_lengths=batch.row_lengths, last_position=batch.last_position)
