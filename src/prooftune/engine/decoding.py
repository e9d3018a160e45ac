"""Rows on their way from prompts to texts, a token of each in every step.

Batching is continuous (iteration-level scheduling; Yu et al. 2022, Orca, OSDI): rows join those
that are being written, and rows that have ended leave them, whatever step the others are at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from prooftune.engine.attention.masks import AttentionContext
from prooftune.engine.batching import Batch, PrefixGroup, collate
from prooftune.engine.forward import (
    PrefixCache,
    get_backbone,
    get_output_head,
    hidden_states_in_context,
)
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.prefix_groups import SharedPrefixCache

TokenSelector = Callable[[int, list[int], Tensor], int]
"""(row number, ids written so far, log-probabilities [vocabulary]) -> the next token; for decoding
under a constraint."""


@dataclass(slots=True)
class Generated:
    """What was written after one prompt.

    Attributes:
        ids: without the stop token.
        log_prob: natural-log probability of the ids and, where it was written, the stop token.
        stopped: whether the stop token was written; otherwise the limit cut the text off.
        no_answer_log_prob: that of the text given as `instead`, with its stop token; None without
            one.
    """

    ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False
    no_answer_log_prob: float | None = None


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Rows that join together.

    Attributes:
        row_ids: of the rows.
        prompts: ids of each after the prefix, none empty.
        groups: those that begin alike, in the order of the rows, all of them; or none.
    """

    row_ids: list[int]
    prompts: list[Sequence[int]]
    groups: list[PrefixGroup] = field(default_factory=list)

    @property
    def prefix_lengths(self) -> list[int]:
        """Tokens of each prompt that stand once for its group."""
        return [group.prefix_length for group in self.groups for _ in group.row_ids] or [0] * len(
            self.prompts
        )


@dataclass(slots=True)
class SequenceState:
    """One that is being written.

    Attributes:
        begins: position of its own first token.
        held: its own tokens whose keys and values are kept.
        token: the last one written, which has not been read yet.
        ended: whether nothing follows it.
    """

    number: int
    done: Generated
    begins: int
    held: int
    token: int = -1
    ended: bool = False


Finished = list[tuple[int, Generated]]
"""Numbers of rows that have ended, and what was written for them."""


class ContinuousBatcher:
    """The rows that are being written.

    Rows that have ended are computed along until they are half of all, since to leave them out is
    to copy the others.
    """

    def __init__(
        self,
        model: nn.Module,
        prefix: PrefixCache | None,
        prefix_length: int,
        stop_token_id: int,
        limit: int,
        alternative_ids: Sequence[int] = (),
        token_selector: TokenSelector | None = None,
    ) -> None:
        """See `generation.generate`; `limit` is its `max_new_tokens`."""
        self._body, self._readout, self._device = (
            get_backbone(model),
            get_output_head(model),
            next(model.parameters()).device,
        )
        self._prefix, self._prefix_length, self._stop, self._limit = (
            prefix,
            prefix_length,
            stop_token_id,
            limit,
        )
        self._instead, self._choose = tuple(alternative_ids), token_selector
        self._rows: list[SequenceState] = []
        self._kept = KVCache()
        self._beginnings = SharedPrefixCache(prefix)

    @property
    def going(self) -> int:
        """Rows that have not ended."""
        return sum(not row.ended for row in self._rows)

    def fits(self, portion: PrefillBatch, budget: int) -> bool:
        """Whether so many tokens at most are held when it has joined, those to come and common
        beginnings included."""
        going = [row for row in self._rows if not row.ended]
        own = [
            len(prompt) - n
            for prompt, n in zip(portion.prompts, portion.prefix_lengths, strict=True)
        ]
        room = max(self._room(going), max(own) + self._limit)
        beginnings = [
            *self._beginnings.lengths,
            *(self._prefix_length + group.prefix_length for group in portion.groups),
        ]
        return (len(going) + len(own)) * room + len(beginnings) * max(
            beginnings, default=0
        ) <= budget

    def join(self, portion: PrefillBatch) -> Finished:
        """Read the prompts, write the first token of each, and let those that go on join the
        others."""
        if not self.going:  # what was kept of those that have ended goes before more is read
            self._rows, self._kept, self._beginnings = (
                [],
                KVCache(),
                SharedPrefixCache(self._prefix),
            )
        beginnings = self._read_beginnings(portion)
        rows = [
            SequenceState(number, Generated(), self._prefix_length + n, len(prompt) - n)
            for number, prompt, n in zip(
                portion.row_ids, portion.prompts, portion.prefix_lengths, strict=True
            )
        ]
        own = [
            prompt[n:] for prompt, n in zip(portion.prompts, portion.prefix_lengths, strict=True)
        ]
        kept = KVCache()
        ended = self._write(rows, self._read(own, rows, kept, beginnings))
        if len(ended) < len(rows):
            self._go_on_with([(self._rows, self._kept, self._beginnings), (rows, kept, beginnings)])
        return ended

    def step(self) -> Finished:
        """Write one more token of every row."""
        if 2 * self.going <= len(self._rows):
            self._go_on_with([(self._rows, self._kept, self._beginnings)])
        tokens = [[row.token] for row in self._rows]
        held, begins = (
            torch.tensor(one, device=self._device)[:, None]
            for one in zip(*((row.held, row.begins) for row in self._rows), strict=True)
        )
        places = torch.arange(int(held.max()) + 1, device=self._device)
        self._kept.set_write_positions(held[:, 0], len(places))
        batch = replace(
            collate(tokens, [[0]] * len(tokens), 0, self._device), position_ids=begins + held
        )
        hidden = self._look(
            (places <= held)[:, None], batch, begins + places, self._beginnings, self._kept
        )
        for row in self._rows:
            row.held += not row.ended  # those that have ended write over their last place
        return self._write(self._rows, torch.log_softmax(self._readout(hidden), dim=-1))

    def _room(self, rows: Sequence[SequenceState]) -> int:
        """Places for the tokens of the longest of them, those to come included, the last of which
        is never read but by rows that have ended."""
        return max((row.held + self._limit + 1 - len(row.done.ids) for row in rows), default=0)

    def _look(
        self,
        allowed: Tensor,
        batch: Batch,
        positions: Tensor,
        beginnings: SharedPrefixCache,
        kept: KVCache,
    ) -> Tensor:
        """Hidden states [n, d] where new tokens are read.

        Args:
            allowed: [rows, 1 or new, places] where each may look.
            batch: [rows, new] tokens.
            positions: [rows, places], counted with the prefix.
            beginnings: what the rows see before their own.
            kept: keys and values of what was read before, which takes the new ones.
        """
        sight = AttentionContext(
            allowed, batch.position_ids, positions, beginnings.layers, beginnings.groups
        )
        return hidden_states_in_context(self._body, batch, sight, kept)

    def _read_beginnings(self, portion: PrefillBatch) -> SharedPrefixCache:
        if not portion.groups:
            return SharedPrefixCache(self._prefix)
        of_rows = [number for number, group in enumerate(portion.groups) for _ in group.row_ids]
        starts = [
            portion.prompts[of_rows.index(number)][: group.prefix_length]
            for number, group in enumerate(portion.groups)
        ]
        return SharedPrefixCache.prefill(
            self._body, self._prefix, self._prefix_length, starts, of_rows, self._device
        )

    def _read(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[SequenceState],
        kept: KVCache,
        beginnings: SharedPrefixCache,
    ) -> Tensor:
        """Log-probabilities [rows, vocabulary] of the first token after prompts.

        What is scored `instead` is scored on the way, and never looked at again.
        """
        alternative_ids, count = self._instead, max(1, len(self._instead))
        read = [list(range(len(prompt) - 1, len(prompt) - 1 + count)) for prompt in prompts]
        batch = collate(
            [[*prompt, *alternative_ids[:-1]] for prompt in prompts], read, 0, self._device
        )
        places = torch.arange(batch.input_ids.shape[1], device=self._device)
        positions = (
            places + torch.tensor([row.begins for row in rows], device=self._device)[:, None]
        )
        causal = (places[:, None] >= places).expand(len(rows), -1, -1)
        hidden = self._look(
            causal, replace(batch, position_ids=positions), positions, beginnings, kept
        )
        log_probs = torch.log_softmax(self._readout(hidden), dim=-1).view(len(rows), count, -1)
        first = log_probs[:, 0]
        if alternative_ids:
            wanted = torch.tensor(alternative_ids, device=self._device)[None, :, None].expand(
                len(rows), -1, 1
            )
            for row, value in zip(
                rows, log_probs.gather(2, wanted).sum(dim=(1, 2)).tolist(), strict=True
            ):
                row.done.no_answer_log_prob = value
            first = first.clone()
            first[:, [alternative_ids[0], self._stop]] = -torch.inf
        return first

    def _write(self, rows: Sequence[SequenceState], log_probs: Tensor) -> Finished:
        """Note the next token of every row that goes on; those that end with it."""
        best = log_probs.argmax(dim=-1).tolist()
        if self._choose is not None:
            best = [
                self._stop if row.ended else self._choose(row.number, row.done.ids, of_row)
                for row, of_row in zip(rows, log_probs, strict=True)
            ]
        values = log_probs.gather(1, torch.tensor(best, device=log_probs.device)[:, None])[
            :, 0
        ].tolist()
        going = [
            (row, token, value)
            for row, token, value in zip(rows, best, values, strict=True)
            if not row.ended
        ]
        for row, token, value in going:
            done, row.token = row.done, token
            done.log_prob += value
            done.stopped = token == self._stop
            if not done.stopped:
                done.ids.append(token)
            row.ended = done.stopped or len(done.ids) == self._limit
        return [(row.number, row.done) for row, _, _ in going if row.ended]

    def _go_on_with(
        self, parts: Sequence[tuple[list[SequenceState], KVCache, SharedPrefixCache]]
    ) -> None:
        """With those rows of each part that have not ended, of which there is one at least."""
        numbers = [[i for i, row in enumerate(rows) if not row.ended] for rows, _, _ in parts]
        some = [(part, going) for part, going in zip(parts, numbers, strict=True) if going]
        self._rows = [rows[i] for (rows, _, _), going in some for i in going]
        self._kept = KVCache.of(
            [(kept, going) for (_, kept, _), going in some], self._room(self._rows)
        )
        self._beginnings = SharedPrefixCache.merge([(one, going) for (_, _, one), going in some])
