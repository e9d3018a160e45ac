"""What rows that are written see before their own tokens: the prefix of all, or beginnings that
several of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prooftune.engine.attention.masks import KeysValues, PrefixGroups
from prooftune.engine.batching import collate
from prooftune.engine.forward import PrefixCache, hidden_states
from prooftune.engine.kv_cache import KVCache, together


@dataclass(frozen=True, slots=True)
class SharedPrefixCache:
    """Keys and values that rows see before their own, kept once for all rows that see the same.

    Attributes:
        layers: of the prefix alone; or [groups, key heads, most, size] of each common beginning
            behind the prefix; None without either.
        tokens: [groups] of each beginning, the prefix included; the rest is padding.
        of_rows: number of each row's beginning; rows that have the same are neighbours.
        groups: which rows see which; None where all see the prefix alone.
    """

    layers: Sequence[KeysValues] | None
    tokens: Tensor | None = None
    of_rows: Sequence[int] = ()
    groups: PrefixGroups | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each beginning that several rows have in common, the prefix included."""
        return [] if self.tokens is None else self.tokens.tolist()

    @classmethod
    def prefill(
        cls,
        body: nn.Module,
        prefix: PrefixCache | None,
        prefix_length: int,
        starts: Sequence[Sequence[int]],
        of_rows: Sequence[int],
        device: torch.device,
    ) -> SharedPrefixCache:
        """Compute `starts`, ids behind the prefix, each once."""
        kept = KVCache()
        hidden_states(
            body, collate(starts, [[] for _ in starts], prefix_length, device), prefix, kept
        )
        layers = kept.layers()
        before = prefix or [(None, None)] * len(layers)
        behind = [
            (_behind(a, keys), _behind(b, values))
            for (a, b), (keys, values) in zip(before, layers, strict=True)
        ]
        return cls._of(
            behind,
            torch.tensor([prefix_length + len(start) for start in starts], device=device),
            of_rows,
        )

    @classmethod
    def _of(
        cls, layers: Sequence[KeysValues], tokens: Tensor, of_rows: Sequence[int]
    ) -> SharedPrefixCache:
        return cls(
            layers,
            tokens,
            of_rows,
            PrefixGroups.of(torch.tensor(of_rows, device=tokens.device), tokens),
        )

    @classmethod
    def merge(cls, parts: Sequence[tuple[SharedPrefixCache, Sequence[int]]]) -> SharedPrefixCache:
        """Those that rows of each of these see, rows being named by their numbers."""
        used = [
            sorted({one.of_rows[i] for i in rows}) for one, rows in parts if one.tokens is not None
        ]
        if not used:
            return parts[0][0]
        of_rows: list[int] = []
        before = 0
        for (one, rows), numbers in zip(parts, used, strict=True):
            of_rows += [before + numbers.index(one.of_rows[i]) for i in rows]
            before += len(numbers)
        tokens = torch.cat(
            [
                one.tokens[numbers]
                for (one, _), numbers in zip(parts, used, strict=True)
                if one.tokens is not None
            ]
        )
        held = [(one.layers or (), numbers) for (one, _), numbers in zip(parts, used, strict=True)]
        return cls._of(together(held, int(tokens.max())), tokens, of_rows)


def _behind(prefix: Tensor | None, own: Tensor) -> Tensor:
    """Keys or values [groups, heads, length, size] behind those of a prefix that all groups share."""
    return own if prefix is None else torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)
