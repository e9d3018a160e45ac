"""Continuous batching: prefill and decode steps of the sequences that are being generated.

Batching is continuous (iteration-level scheduling; Yu et al. 2022, Orca, OSDI): new sequences are
admitted while others are being decoded, and finished ones leave, whatever step the others are at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from prooftune.engine.attention.padded_masks import AttentionContext
from prooftune.engine.batching import Batch, collate
from prooftune.engine.forward import PrefixCache, hidden_states_in_context
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.model_parts import get_backbone, get_output_head
from prooftune.engine.next_tokens import append_tokens
from prooftune.engine.prefix_groups import SharedPrefixCache
from prooftune.engine.sequences import (
    Finished,
    Generated,
    PrefillBatch,
    SequenceState,
    TokenSelector,
)
from prooftune.engine.uploads import upload_numbers


class ContinuousBatcher:
    """The sequences that are being generated, with their KV caches.

    Finished sequences remain in the batch until they are half of it: removing them copies the KV
    cache of all others.
    """

    def __init__(
        self,
        model: nn.Module,
        prefix: PrefixCache | None,
        prefix_length: int,
        stop_token_id: int,
        max_new_tokens: int,
        alternative_ids: Sequence[int] = (),
        token_selector: TokenSelector | None = None,
        sample: bool = False,
    ) -> None:
        """See `generation.generate`.

        Args:
            model: a causal language model, adapters included.
            prefix: cache of the prefix of all prompts.
            prefix_length: its tokens.
            stop_token_id: ends a sequence.
            max_new_tokens: limit for each sequence, the stop token included.
            alternative_ids: tokens that are scored and not generated.
            token_selector: picks each token. Default: the most likely one.
            sample: draw each token from the model's distribution instead.
        """
        self._backbone, self._output_head, self._device = (
            get_backbone(model),
            get_output_head(model),
            next(model.parameters()).device,
        )
        self._prefix, self._prefix_length, self._stop_token_id, self._max_new_tokens = (
            prefix,
            prefix_length,
            stop_token_id,
            max_new_tokens,
        )
        self._alternative_ids, self._token_selector = tuple(alternative_ids), token_selector
        self._sample = sample
        self._sequences: list[SequenceState] = []
        self._cache = KVCache()
        self._shared = SharedPrefixCache(prefix)

    @property
    def num_active(self) -> int:
        """Number of sequences that are not finished."""
        return sum(not sequence.finished for sequence in self._sequences)

    def has_capacity(self, batch: PrefillBatch, budget: int) -> bool:
        """Whether at most `budget` tokens are cached once the batch is admitted.

        Tokens still to be generated and common prefixes count.
        """
        # Finished sequences do not count: `admit` removes them.
        active = [sequence for sequence in self._sequences if not sequence.finished]
        own = [
            len(prompt) - n for prompt, n in zip(batch.prompts, batch.prefix_lengths, strict=True)
        ]
        # All rows of the buffer have the capacity of the longest.
        capacity = max(self._capacity(active), max(own) + self._max_new_tokens)
        prefixes = [
            *self._shared.lengths,
            *(self._prefix_length + group.prefix_length for group in batch.groups),
        ]
        return (len(active) + len(own)) * capacity + len(prefixes) * max(
            prefixes, default=0
        ) <= budget

    def admit(self, batch: PrefillBatch) -> Finished:
        """Prefill prompts, generate the first token of each, and add those that continue."""
        if not self.num_active:  # free the caches of finished sequences before the prefill
            self._sequences, self._cache, self._shared = (
                [],
                KVCache(),
                SharedPrefixCache(self._prefix),
            )
        shared = self._prefill_common_prefixes(batch)
        sequences = [
            SequenceState(row_id, Generated(), self._prefix_length + n, len(prompt) - n)
            for row_id, prompt, n in zip(
                batch.row_ids, batch.prompts, batch.prefix_lengths, strict=True
            )
        ]
        # The common prefixes are in the shared cache.
        own = [prompt[n:] for prompt, n in zip(batch.prompts, batch.prefix_lengths, strict=True)]
        cache = KVCache()
        finished = self._append_tokens(sequences, self._prefill(own, sequences, cache, shared))
        # A sequence that ends with its first token never enters the cache.
        if len(finished) < len(sequences):
            self._compact(
                [(self._sequences, self._cache, self._shared), (sequences, cache, shared)]
            )
        return finished

    def decode_step(self) -> Finished:
        """Generate one more token of every sequence."""
        # Amortized: a compaction copies the cache, and at least halves the batch.
        if 2 * self.num_active <= len(self._sequences):
            self._compact([(self._sequences, self._cache, self._shared)])
        # Finished sequences are computed too, until the next compaction removes them.
        tokens = [[sequence.next_token] for sequence in self._sequences]
        cached, first = (
            upload_numbers(values, self._device)[:, None]
            for values in zip(
                *((s.cached_tokens, s.first_position) for s in self._sequences), strict=True
            )
        )
        # Rows have different lengths: a row attends to its own first `cached + 1` positions.
        # Counted on the host: reading it from the GPU would wait for the last step.
        longest = max(s.cached_tokens for s in self._sequences)
        key_index = torch.arange(longest + 1, device=self._device)  # (keys,)
        self._cache.set_write_positions(cached[:, 0], len(key_index))
        # Positions differ by row: those of `collate` are replaced.
        batch = replace(
            collate(tokens, [[0]] * len(tokens), 0, self._device),
            position_ids=first + cached,
            last_position=max(s.first_position + s.cached_tokens for s in self._sequences),
        )
        hidden = self._hidden_states(
            (key_index <= cached)[:, None],
            batch,
            first + key_index,
            self._shared,
            self._cache,
        )
        for sequence in self._sequences:
            sequence.cached_tokens += not sequence.finished  # finished ones overwrite their last
        log_probs = torch.log_softmax(self._output_head(hidden), dim=-1)
        return self._append_tokens(self._sequences, log_probs)

    def _capacity(self, sequences: Sequence[SequenceState]) -> int:
        """KV-cache positions that the longest sequence needs, tokens to come included.

        The last position is written by finished sequences only.
        """
        return max(
            (s.cached_tokens + self._max_new_tokens + 1 - len(s.output.ids) for s in sequences),
            default=0,
        )

    def _hidden_states(
        self,
        allowed: Tensor,
        batch: Batch,
        key_positions: Tensor,
        shared: SharedPrefixCache,
        cache: KVCache,
    ) -> Tensor:
        """Hidden states [n, d] at the batch's logit positions.

        Args:
            allowed: [rows, 1 or new tokens, keys], True where a query may attend to a key.
            batch: [rows, new tokens].
            key_positions: [rows, keys], counted from the start of the prefix.
            shared: the prefixes before the rows' own tokens.
            cache: the rows' own keys and values; takes the new ones.
        """
        context = AttentionContext(
            allowed,
            batch.position_ids,
            key_positions,
            shared.layers,
            shared.groups,
            last_position=batch.last_position,
        )
        return hidden_states_in_context(self._backbone, batch, context, cache)

    def _prefill_common_prefixes(self, batch: PrefillBatch) -> SharedPrefixCache:
        if not batch.groups:
            return SharedPrefixCache(self._prefix)
        group_ids = [i for i, group in enumerate(batch.groups) for _ in group.row_ids]
        common_prefixes = [
            # Every row of a group starts with its prefix; the first one is taken.
            batch.prompts[group_ids.index(i)][: group.prefix_length]
            for i, group in enumerate(batch.groups)
        ]
        return SharedPrefixCache.prefill(
            self._backbone,
            self._prefix,
            self._prefix_length,
            common_prefixes,
            group_ids,
            self._device,
        )

    def _prefill(
        self,
        prompts: Sequence[Sequence[int]],
        sequences: Sequence[SequenceState],
        cache: KVCache,
        shared: SharedPrefixCache,
    ) -> Tensor:
        """Log-probabilities [rows, vocabulary] of the first token after the prompts.

        The alternative is scored in the same pass. Its tokens follow the prompt's in the cache,
        where decoding overwrites them or masks them out.
        """
        alternative, count = self._alternative_ids, max(1, len(self._alternative_ids))
        # The prompt's last token predicts the alternative's first, and each of its tokens the next;
        # its last token is predicted and never fed.
        logit_positions = [
            list(range(len(prompt) - 1, len(prompt) - 1 + count)) for prompt in prompts
        ]
        batch = collate(
            [[*prompt, *alternative[:-1]] for prompt in prompts], logit_positions, 0, self._device
        )
        index = torch.arange(batch.input_ids.shape[1], device=self._device)  # (tokens,)
        first = upload_numbers([s.first_position for s in sequences], self._device)
        positions = index + first[:, None]  # (rows, tokens)
        # Right padding follows a row's tokens, so the causal mask hides it as well.
        causal_mask = (index[:, None] >= index).expand(len(sequences), -1, -1)
        last = max(s.first_position for s in sequences) + len(index) - 1
        hidden = self._hidden_states(
            causal_mask,
            replace(batch, position_ids=positions, last_position=last),
            positions,
            shared,
            cache,
        )
        log_probs = torch.log_softmax(self._output_head(hidden), dim=-1)
        log_probs = log_probs.view(len(sequences), count, -1)
        # (rows, 1 or alternative tokens, vocabulary) -> (rows, vocabulary)
        first_log_probs = log_probs[:, 0]
        if alternative:
            token_ids = upload_numbers(alternative, self._device)[None, :, None].expand(
                len(sequences), -1, 1
            )
            # Log-probability of the alternative: the sum over its tokens, each given those before
            # it.
            sums = log_probs.gather(2, token_ids).sum(dim=(1, 2)).tolist()
            for sequence, value in zip(sequences, sums, strict=True):
                sequence.output.no_answer_log_prob = value
            # A view of `log_probs`, whose sums have been taken; cloned so that the in-place change
            # is local.
            first_log_probs = first_log_probs.clone()
            # The answer is generated under the condition that there is one.
            first_log_probs[:, [alternative[0], self._stop_token_id]] = -torch.inf
        return first_log_probs

    def _append_tokens(self, sequences: Sequence[SequenceState], log_probs: Tensor) -> Finished:
        """Append the next token to every active sequence; returns those that finish with it."""
        return append_tokens(
            sequences,
            log_probs,
            self._stop_token_id,
            self._max_new_tokens,
            self._token_selector,
            self._sample,
        )

    def _compact(
        self, parts: Sequence[tuple[list[SequenceState], KVCache, SharedPrefixCache]]
    ) -> None:
        """Continue with the active sequences of each part, of which there is at least one."""
        active_rows = [
            [i for i, sequence in enumerate(sequences) if not sequence.finished]
            for sequences, _, _ in parts
        ]
        remaining = [(part, rows) for part, rows in zip(parts, active_rows, strict=True) if rows]
        # The same order in all three: a sequence's index is its row in the caches.
        self._sequences = [sequences[i] for (sequences, _, _), rows in remaining for i in rows]
        self._cache = KVCache.merge(
            [(cache, rows) for (_, cache, _), rows in remaining], self._capacity(self._sequences)
        )
        self._shared = SharedPrefixCache.merge(
            [(shared, rows) for (_, _, shared), rows in remaining]
        )
