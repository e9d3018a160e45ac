"""Shared-prefix cache for generation: the prefix of all prompts, and common prefixes of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prooftune.engine.attention.padded_masks import KeysValues, PrefixGroups
from prooftune.engine.batching import collate
from prooftune.engine.forward import PrefixCache, hidden_states
from prooftune.engine.kv_cache import KVCache, gather_rows
from prooftune.engine.uploads import upload_numbers


@dataclass(frozen=True, slots=True)
class SharedPrefixCache:
    """Keys and values before the rows' own, stored once for all rows that share them.

    Attributes:
        layers: keys and values of the prefix of all prompts alone; or, with groups, [groups, key
            heads, longest prefix, size] of each group's common prefix behind it; None without
            either.
        prefix_lengths: [groups] tokens of each common prefix, that of all prompts included; the
            rest is padding.
        row_group_ids: group of each row, in ascending order.
        groups: index of rows and groups; None if all rows see the prefix of all prompts alone.
    """

    layers: Sequence[KeysValues] | None
    prefix_lengths: Tensor | None = None
    row_group_ids: Sequence[int] = ()
    groups: PrefixGroups | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each group's common prefix, that of all prompts included."""
        return [] if self.prefix_lengths is None else self.prefix_lengths.tolist()

    @classmethod
    def prefill(
        cls,
        backbone: nn.Module,
        prefix: PrefixCache | None,
        prefix_length: int,
        common_prefixes: Sequence[Sequence[int]],
        row_group_ids: Sequence[int],
        device: torch.device,
    ) -> SharedPrefixCache:
        """Compute the common prefix of each group once.

        Args:
            backbone: the transformer.
            prefix: cache of the prefix of all prompts.
            prefix_length: its tokens.
            common_prefixes: token ids of each group behind it.
            row_group_ids: group of each row, in ascending order.
            device: of the model.
        """
        cache = KVCache()
        # Only keys and values are needed.
        no_logits: list[list[int]] = [[] for _ in common_prefixes]
        hidden_states(
            backbone, collate(common_prefixes, no_logits, prefix_length, device), prefix, cache
        )
        # (groups, key heads, longest common prefix, size) for every layer.
        layers = cache.layers()
        before = prefix or [(None, None)] * len(layers)
        # A group's rows then see one prefix and not two, which is one matmul less per layer.
        concatenated = [
            (_concat(prefix_keys, keys), _concat(prefix_values, values))
            for (prefix_keys, prefix_values), (keys, values) in zip(before, layers, strict=True)
        ]
        lengths = [prefix_length + len(common) for common in common_prefixes]
        return cls._build(concatenated, upload_numbers(lengths, device), row_group_ids)

    @classmethod
    def _build(
        cls, layers: Sequence[KeysValues], prefix_lengths: Tensor, row_group_ids: Sequence[int]
    ) -> SharedPrefixCache:
        group_ids = upload_numbers(row_group_ids, prefix_lengths.device)
        groups = PrefixGroups.from_ids(group_ids, prefix_lengths)
        return cls(layers, prefix_lengths, row_group_ids, groups)

    @classmethod
    def merge(cls, parts: Sequence[tuple[SharedPrefixCache, Sequence[int]]]) -> SharedPrefixCache:
        """The prefixes that the given rows of each part still need."""
        # The batches of one queue all have groups or all have none (`generation._prefill_queues`),
        # so `used` is as long as `parts` or empty.
        # A group leaves with its last row.
        used = [
            sorted({cache.row_group_ids[i] for i in rows})
            for cache, rows in parts
            if cache.prefix_lengths is not None
        ]
        if not used:
            return parts[0][0]
        row_group_ids: list[int] = []
        first_group = 0
        for (cache, rows), group_ids in zip(parts, used, strict=True):
            # Groups are numbered anew: those of the first part, then those of the second.
            row_group_ids += [first_group + group_ids.index(cache.row_group_ids[i]) for i in rows]
            first_group += len(group_ids)
        prefix_lengths = torch.cat(
            [
                cache.prefix_lengths[group_ids]
                for (cache, _), group_ids in zip(parts, used, strict=True)
                if cache.prefix_lengths is not None
            ]
        )
        cached = [
            (cache.layers or (), group_ids)
            for (cache, _), group_ids in zip(parts, used, strict=True)
        ]
        return cls._build(
            gather_rows(cached, int(prefix_lengths.max())), prefix_lengths, row_group_ids
        )


def _concat(prefix: Tensor | None, own: Tensor) -> Tensor:
    """Keys or values [groups, heads, length, size] behind those of the prefix of all prompts."""
    return own if prefix is None else torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)
