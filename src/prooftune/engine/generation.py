"""The one generation path: greedy decoding in batches behind a shared prefix, ended by the learned stop token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import Sight, options
from prooftune.engine.batches import by_tokens, collate
from prooftune.engine.cache import Kept
from prooftune.engine.forward import Prefix, body_of, hidden_states, prefix_cache, readout_of, sharing
from prooftune.engine.scoring import score_labels
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
        batch_tokens: tokens of prompts computed at one time, padding included.
        instead: ids of a text that is scored, and not written: its first token is refused as the first one.
        choose: picks each token where not the likeliest is wanted.

    Yields:
        Row numbers of a batch, and what was written for them.
    """
    extra = len(instead) + max_new_tokens
    with torch.no_grad(), sharing(model) as shared:
        cache = prefix_cache(body_of(model), prefix) if shared else None
        for numbers in by_tokens([len(row) + extra for row in rows], batch_tokens):
            chosen = [rows[i] for i in numbers]
            if shared:
                writer = _Writer(model, cache, len(prefix), chosen, numbers, stop, tuple(instead), choose)
                yield numbers, writer.write(max_new_tokens)
            elif choose is not None:
                raise Failure("decoding under a constraint needs an architecture that Prooftune's own attention fits; set "
                              "answering.constrained: false")
            else:
                yield numbers, _by_library(model, [[*prefix, *row] for row in chosen], stop, tuple(instead), max_new_tokens)


class _Writer:
    """One batch on its way from prompts to texts. Rows that have ended are dropped once they are half of the batch."""

    def __init__(
        self, model: nn.Module, prefix: Prefix | None, prefix_length: int, rows: list[Sequence[int]], numbers: Sequence[int],
        stop: int, instead: tuple[int, ...], choose: Choose | None,
    ) -> None:
        self._body, self._readout, self._prefix, self._stop, self._choose = body_of(model), readout_of(model), prefix, stop, choose
        self._instead, self._numbers = instead, list(numbers)
        self._device = next(model.parameters()).device
        self._rows, self._prefix_length = rows, prefix_length
        self._done = [Generated() for _ in rows]
        self._slots = list(range(len(rows)))  # for each row of the cache, its place in `rows`

    def write(self, limit: int) -> list[Generated]:
        """At most `limit` tokens for every row."""
        kept = Kept(room=limit)
        log_probs = self._read(kept)
        lengths = torch.tensor([len(row) for row in self._rows], device=self._device)
        width = kept.length
        places = torch.arange(width + limit, device=self._device)
        # Of the prompt's part of the cache, padding and what was only scored are never looked at again.
        visible = (places < lengths[:, None]) | (places >= width)
        positions = torch.where(places < width, places, places - width + lengths[:, None]) + self._prefix_length
        for step in range(limit):
            tokens = self._pick(log_probs)
            going = [slot for slot, token in enumerate(tokens) if token is not None]
            if step + 1 == limit or not going:
                break
            if 2 * len(going) <= len(tokens):
                rows = torch.tensor(going, device=self._device)
                kept.keep_rows(rows)
                visible, positions = visible[rows], positions[rows]
                self._slots, tokens = [self._slots[slot] for slot in going], [tokens[slot] for slot in going]
            ids = torch.tensor([[self._stop if token is None else token] for token in tokens], device=self._device)
            end = width + step + 1
            at = positions[:, end - 1 : end]
            sight = Sight(visible[:, None, :end], at, positions[:, :end], self._prefix)
            out = self._body(input_ids=ids, position_ids=at, past_key_values=kept, **options(sight))
            log_probs = torch.log_softmax(self._readout(out.last_hidden_state[:, -1]), dim=-1)
        return self._done

    def _read(self, kept: Kept) -> Tensor:
        """Log-probabilities [rows, vocabulary] of the first token; what is scored `instead` is scored on the way."""
        instead, count = self._instead, max(1, len(self._instead))
        read = [list(range(len(row) - 1, len(row) - 1 + count)) for row in self._rows]
        batch = collate([[*row, *instead[:-1]] for row in self._rows], read, self._prefix_length, self._device)
        logits = self._readout(hidden_states(self._body, batch, self._prefix, kept))
        log_probs = torch.log_softmax(logits, dim=-1).view(len(self._rows), count, -1)
        first = log_probs[:, 0]
        if instead:
            wanted = torch.tensor(instead, device=self._device)[None, :, None].expand(len(self._rows), -1, 1)
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
