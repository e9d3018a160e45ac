"""The one generation path: greedy decoding in batches behind a shared prefix, ended by the learned stop token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.batches import Batch, alike, alike_by_tokens, by_tokens, collate
from prooftune.engine.cache import Kept
from prooftune.engine.forward import Prefix, body_of, hidden_states, prefix_cache, readout_of, sharing, states_at
from prooftune.engine.scoring import score_labels
from prooftune.engine.sight import Groups, Sight
from prooftune.errors import Failure

Choose = Callable[[int, list[int], Tensor], int]
"""(row number, ids written so far, log-probabilities [vocabulary]) -> the next token; for decoding under a constraint."""


@dataclass(slots=True)
class Generated:
    """What was written after one prompt.

    Attributes:
        ids: without the stop token.
        log_prob: natural-log probability of the ids and, where it was written, the stop token.
        stopped: whether the stop token was written; otherwise the limit cut the text off.
        instead_log_prob: that of the text given as `instead`, with its stop token; None without one.
    """

    ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False
    instead_log_prob: float | None = None


def generate(
    model: nn.Module, prefix: Sequence[int], rows: Sequence[Sequence[int]], stop: int, *, max_new_tokens: int,
    batch_tokens: int = 8192, instead: Sequence[int] = (), choose: Choose | None = None,
) -> Iterator[tuple[list[int], list[Generated]]]:
    """Continue every prompt with the likeliest token, step by step.

    Args:
        model: a causal language model, adapters included.
        prefix: ids that all prompts begin with.
        rows: ids after the prefix, none empty.
        stop: id of the token that ends an answer; it is counted among `max_new_tokens`.
        max_new_tokens: most tokens written.
        batch_tokens: tokens of prompts computed at one time.
        instead: ids of a text that is scored, and not written: its first token is refused as the first one.
        choose: picks each token where not the likeliest is wanted.

    Yields:
        Row numbers of a batch, and what was written for them.
    """
    lengths = [len(row) + len(instead) + max_new_tokens for row in rows]
    with torch.no_grad(), sharing(model) as shared:
        if not shared:
            if choose is not None:
                raise Failure("decoding under a constraint needs an architecture that Prooftune's own attention fits; set "
                              "answering.constrained: false")
            for numbers in by_tokens(lengths, batch_tokens, inf):
                yield numbers, _by_library(model, [[*prefix, *rows[i]] for i in numbers], stop, tuple(instead), max_new_tokens)
            return
        cache = prefix_cache(body_of(model), prefix)
        groups, rest = alike(rows)
        batches = [([i for group in several for i in group.numbers], several)
                   for several in alike_by_tokens(groups, lengths, batch_tokens)]
        # Every batch takes all steps of its longest answer, which costs more than padding does.
        batches += [([rest[i] for i in chosen], []) for chosen in by_tokens([lengths[i] for i in rest], batch_tokens, inf)]
        for numbers, several in batches:
            writer = _Writer(model, cache, len(prefix), numbers, stop, tuple(instead), choose)
            yield numbers, writer.write([rows[i] for i in numbers], [group.common for group in several for _ in group.numbers],
                                        max_new_tokens)


class _Writer:
    """One batch on its way from prompts to texts. Rows that have ended are dropped once they are half of the batch."""

    def __init__(
        self, model: nn.Module, prefix: Prefix | None, prefix_length: int, numbers: Sequence[int], stop: int,
        instead: tuple[int, ...], choose: Choose | None,
    ) -> None:
        self._body, self._readout, self._prefix, self._stop, self._choose = body_of(model), readout_of(model), prefix, stop, choose
        self._instead, self._numbers = instead, list(numbers)
        self._device = next(model.parameters()).device
        self._prefix_length = prefix_length
        self._done = [Generated() for _ in numbers]
        self._slots = list(range(len(numbers)))  # for each row of the cache, its place in the batch
        self._groups: Groups | None = None  # where rows share more than the prefix

    def write(self, rows: Sequence[Sequence[int]], common: Sequence[int], limit: int) -> list[Generated]:
        """At most `limit` tokens for every row.

        Args:
            rows: ids after the prefix.
            common: how many tokens of each row are a beginning that stands once for the rows that have it, which are
                neighbours; empty: none are.
            limit: most tokens.
        """
        self._share(rows, common)
        kept = Kept(limit)
        own = [row[n:] for row, n in zip(rows, common, strict=True)] if common else rows
        begins = torch.tensor([self._prefix_length + n for n in common or [0] * len(rows)], device=self._device)
        log_probs = self._read(own, kept, begins)
        width, lengths = kept.length, torch.tensor([len(row) for row in own], device=self._device)
        places, more = (torch.arange(n, device=self._device).expand(len(rows), -1) for n in (width, limit))
        visible = torch.cat([places < lengths[:, None], torch.ones_like(more, dtype=torch.bool)], dim=1)
        positions = torch.cat([places + begins[:, None], more + (begins + lengths)[:, None]], dim=1)
        for step in range(limit):
            tokens = self._pick(log_probs)
            going = [slot for slot, token in enumerate(tokens) if token is not None]
            if step + 1 == limit or not going:
                break
            if 2 * len(going) <= len(tokens):
                left = torch.tensor(going, device=self._device)
                kept.keep_rows(left)
                visible, positions = visible[left], positions[left]
                self._groups = None if self._groups is None else self._groups.of_rows(left)
                self._slots, tokens = [self._slots[slot] for slot in going], [tokens[slot] for slot in going]
            batch = collate([[self._stop if token is None else token] for token in tokens], [[0]] * len(tokens), 0, self._device)
            end = width + step + 1
            hidden = self._forward(batch, kept, visible[:, None, :end], positions[:, :end])
            log_probs = torch.log_softmax(self._readout(hidden), dim=-1)
        return self._done

    def _forward(self, batch: Batch, kept: Kept, allowed: Tensor, positions: Tensor) -> Tensor:
        """Hidden states [n, d] where new tokens are read.

        Args:
            batch: [rows, new] tokens.
            kept: keys and values of what was read before, which takes the new ones.
            allowed: [rows, 1 or new, read before + new] where each may look.
            positions: [rows, read before + new], counted with the prefix.
        """
        at = positions[:, -batch.input_ids.shape[1] :]
        sight = Sight(allowed.expand(-1, batch.input_ids.shape[1], -1), at, positions, self._prefix, self._groups)
        return states_at(self._body, replace(batch, position_ids=at), sight, kept)

    def _share(self, rows: Sequence[Sequence[int]], common: Sequence[int]) -> None:
        """Read every common beginning once, behind the prefix, and let its rows see it as theirs."""
        if not common:
            return
        first = [i for i, (row, n) in enumerate(zip(rows, common, strict=True))
                 if i == 0 or n != common[i - 1] or list(row[:n]) != list(rows[i - 1][:n])]
        kept, starts = Kept(), [rows[i][: common[i]] for i in first]
        hidden_states(self._body, collate(starts, [[] for _ in starts], self._prefix_length, self._device), self._prefix, kept)
        layers = kept.layers()
        before = self._prefix or [(None, None)] * len(layers)
        self._prefix = [(_behind(a, keys), _behind(b, values)) for (a, b), (keys, values) in zip(before, layers, strict=True)]
        group = torch.searchsorted(torch.tensor(first), torch.arange(len(rows)), right=True).to(self._device) - 1
        self._groups = Groups.of(group, torch.tensor([self._prefix_length + common[i] for i in first], device=self._device))

    def _read(self, rows: Sequence[Sequence[int]], kept: Kept, begins: Tensor) -> Tensor:
        """Log-probabilities [rows, vocabulary] of the first token after rows that begin at these positions [rows].

        What is scored `instead` is scored on the way, and never looked at again.
        """
        instead, count = self._instead, max(1, len(self._instead))
        read = [list(range(len(row) - 1, len(row) - 1 + count)) for row in rows]
        batch = collate([[*row, *instead[:-1]] for row in rows], read, self._prefix_length, self._device)
        length = batch.input_ids.shape[1]
        places = torch.arange(length, device=self._device)
        causal = (places[:, None] >= places).expand(len(rows), -1, -1)
        hidden = self._forward(batch, kept, causal, places + begins[:, None])
        log_probs = torch.log_softmax(self._readout(hidden), dim=-1).view(len(rows), count, -1)
        first = log_probs[:, 0]
        if instead:
            wanted = torch.tensor(instead, device=self._device)[None, :, None].expand(len(rows), -1, 1)
            for done, value in zip(self._done, log_probs.gather(2, wanted).sum(dim=(1, 2)).tolist(), strict=True):
                done.instead_log_prob = value
            first = first.clone()
            first[:, [instead[0], self._stop]] = -torch.inf
        return first

    def _pick(self, log_probs: Tensor) -> list[int | None]:
        """The next token of every row of the cache, noted for those that go on; None for those that have ended."""
        best = log_probs.argmax(dim=-1).tolist()
        if self._choose is not None:
            best = [self._choose(self._numbers[i], self._done[i].ids, row) if not self._done[i].stopped else self._stop
                    for i, row in zip(self._slots, log_probs, strict=True)]
        values = log_probs.gather(1, torch.tensor(best, device=log_probs.device)[:, None])[:, 0].tolist()
        tokens: list[int | None] = []
        for i, token, value in zip(self._slots, best, values, strict=True):
            done = self._done[i]
            if not done.stopped:
                done.log_prob += value
                done.stopped = token == self._stop
                if not done.stopped:
                    done.ids.append(token)
            tokens.append(None if done.stopped else token)
        return tokens


def _behind(prefix: Tensor | None, own: Tensor) -> Tensor:
    """Keys or values [groups, heads, length, size] behind those of a prefix that all groups share."""
    return own if prefix is None else torch.cat([prefix.expand(len(own), -1, -1, -1), own], dim=2)


def _by_library(model: Any, prompts: list[list[int]], stop: int, instead: tuple[int, ...], limit: int) -> list[Generated]:
    """The library's own loop, for architectures that our attention does not fit."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):  # padded on the left: every row continues from its own last token
        ids[place, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[place, longest - len(prompt) :] = 1
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=stop, pad_token_id=stop,
        begin_suppress_tokens=[instead[0], stop] if instead else None, return_dict_in_generate=True, output_logits=True)
    log_probs = torch.stack(out.logits, dim=1).float().log_softmax(-1)
    written = out.sequences[:, longest:]
    chosen = log_probs.gather(2, written[..., None])[..., 0].tolist()
    done = []
    for row, values in zip(written.tolist(), chosen, strict=True):
        length = row.index(stop) if stop in row else len(row)
        done.append(Generated(row[:length], sum(values[: length + 1]), stop in row))
    if instead:
        for numbers, scores in score_labels(model, [], prompts, [instead], stop):
            for number, value in zip(numbers, scores[:, 0].tolist(), strict=True):
                done[number].instead_log_prob = value
    return done
