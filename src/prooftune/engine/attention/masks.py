"""What the queries of one forward pass may look at: their own rows, and a prefix that all rows or
groups of them share."""

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
    """Which rows see which of several prefixes.

    Attributes:
        group: [rows] each one's.
        tokens: [groups] of each group's prefix; the rest is padding.
        slots: [groups, most] the numbers of each group's rows; any number where there are fewer.
        place: [rows] of each row, in the flattened groups x most.
    """

    group: Tensor
    tokens: Tensor
    slots: Tensor
    place: Tensor

    @classmethod
    def of(cls, group: Tensor, tokens: Tensor) -> PrefixGroups:
        """For rows [rows] of these groups, neighbours where they have the same, and the tokens
        [groups] of each prefix."""
        counts = torch.bincount(group, minlength=len(tokens))
        most, numbers = int(counts.max()), torch.arange(len(group), device=group.device)
        place = group * most + numbers - (counts.cumsum(0) - counts)[group]
        slots = torch.zeros(len(tokens) * most, dtype=torch.long, device=group.device)
        slots[place] = numbers
        return cls(group, tokens, slots.view(len(tokens), most), place)


@dataclass(slots=True)
class AttentionContext:
    """What the queries of one forward pass may look at, the same for all layers but for sliding
    windows.

    Attributes:
        allowed: True where a query may look, [rows or 1, queries, own keys].
        query_positions, key_positions: [rows or 1, queries] and [rows or 1, own keys], counted with
            the prefix.
        prefix: keys and values of the shared prefix for each layer, of one row or of several
            groups; None without one.
        groups: whose prefix is whose; None where there is one.
        squeezed: how the layers' tokens are set out in rows; None where they are.
        own_keys: whether keys and values come as the queries do; otherwise a cache has set them
            out.
    """

    allowed: Tensor
    query_positions: Tensor
    key_positions: Tensor
    prefix: Sequence[KeysValues] | None = None
    groups: PrefixGroups | None = None
    squeezed: UnpaddedLayout | None = None
    own_keys: bool = True
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor, Tensor | None]] = field(
        default_factory=dict
    )
    _repeated: dict[tuple[int | None, torch.dtype, int], Tensor] = field(default_factory=dict)
    _beside: dict[tuple[int | None, torch.dtype, int], Tensor | None] = field(default_factory=dict)

    def masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Additive masks over own keys [rows or 1, 1, queries, keys] and over the prefix (None: all
        of it is seen).

        LoraLinears with a sliding window of W see the last W positions only.
        """
        key = (window, dtype)
        if key not in self._masks:
            own, seen = self.allowed, None
            places = torch.arange(
                self.prefix[0][0].shape[2] if self.prefix else 0, device=own.device
            )
            if self.groups is not None:
                seen = (places < self.groups.tokens[self.groups.group, None])[:, None].expand(
                    -1, own.shape[1], -1
                )
            if window is not None:
                own = own & (
                    self.query_positions[:, :, None] - self.key_positions[:, None, :] < window
                )
                if len(places) and int(self.query_positions.max()) >= window:
                    near = self.query_positions[:, :, None] - places < window
                    seen = near if seen is None else near & seen
            self._masks[key] = (
                additive(own, dtype)[:, None],
                None if seen is None else additive(seen, dtype)[:, None],
            )
        return self._masks[key]

    def expanded_self_mask(self, window: int | None, dtype: torch.dtype, times: int) -> Tensor:
        """The mask over own keys for queries that stand there `times` times, one after another."""
        key = (window, dtype, times)
        if key not in self._repeated:
            self._repeated[key] = self.masks(window, dtype)[0].repeat(1, 1, times, 1)
        return self._repeated[key]

    def prefix_mask(self, window: int | None, dtype: torch.dtype, times: int) -> Tensor | None:
        """The mask over the prefix for such queries, as `beside` puts them."""
        key = (window, dtype, times)
        if key not in self._beside:
            seen = self.masks(window, dtype)[1]
            if seen is not None:
                seen = self.fold_into_groups(
                    seen.expand(len(self.query_positions), -1, -1, -1).repeat(1, 1, times, 1)
                )
            self._beside[key] = seen
        return self._beside[key]

    def fold_into_groups(self, asked: Tensor) -> Tensor:
        """Queries of all rows beside each other, [rows, key heads, m, size] -> [groups, key heads,
        n, size]."""
        if self.groups is None:
            return asked.transpose(0, 1).reshape(1, asked.shape[1], -1, asked.shape[3])
        taken = asked[self.groups.slots]  # [groups, most, key heads, m, size]
        return taken.transpose(1, 2).reshape(len(taken), asked.shape[1], -1, asked.shape[3])

    def unfold_from_groups(self, found: Tensor, rows: int) -> Tensor:
        """What was found for them, back in rows: [groups, key heads, n, k] -> [rows, key heads, m,
        k]."""
        heads, k = found.shape[1], found.shape[3]
        if self.groups is None:
            return found.view(heads, rows, -1, k).transpose(0, 1)
        each = found.view(len(found), heads, self.groups.slots.shape[1], -1, k).transpose(1, 2)
        return each.flatten(0, 1)[self.groups.place]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores: nothing where a query may look, as good as minus infinity
    elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )
