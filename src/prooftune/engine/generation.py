"""The one generation path: greedy decoding behind a shared prefix, ended by the learned stop token,
in continuous batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from prooftune.engine.batching import alike, alike_by_tokens, by_tokens
from prooftune.engine.decoding import Choose, Generated, Portion, Writer
from prooftune.engine.forward import body_of, prefix_cache, sharing
from prooftune.engine.scoring import score_labels
from prooftune.errors import Failure


def generate(
    model: nn.Module,
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    stop: int,
    *,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    instead: Sequence[int] = (),
    choose: Choose | None = None,
) -> Iterator[tuple[list[int], list[Generated]]]:
    """Continue every prompt with the likeliest token, step by step.

    Args:
        model: a causal language model, adapters included.
        prefix: ids that all prompts begin with.
        rows: ids after the prefix, none empty.
        stop: id of the token that ends an answer; it is counted among `max_new_tokens`.
        max_new_tokens: most tokens written.
        batch_tokens: most tokens that are held at one time, those to come included; a single row or
            group may have more.
        instead: ids of a text that is scored, and not written: its first token is refused as the
            first one.
        choose: picks each token where not the likeliest is wanted.

    Yields:
        Numbers of rows that have ended, and what was written for them, as soon as there are some.
    """
    lengths = [len(row) + len(instead) + max_new_tokens for row in rows]
    with torch.no_grad(), sharing(model) as shared:
        if not shared:
            if choose is not None:
                raise Failure(
                    "decoding under a constraint needs an architecture that Prooftune's own "
                    "attention fits; set "
                    "answering.constrained: false"
                )
            for numbers in by_tokens(lengths, batch_tokens, inf):
                yield (
                    numbers,
                    _by_library(
                        model,
                        [[*prefix, *rows[i]] for i in numbers],
                        stop,
                        tuple(instead),
                        max_new_tokens,
                    ),
                )
            return
        cache = prefix_cache(body_of(model), prefix)
        for waiting in _portions(rows, lengths, batch_tokens // 2):
            writer = Writer(model, cache, len(prefix), stop, max_new_tokens, instead, choose)
            while waiting or writer.going:
                joins = waiting and (not writer.going or writer.fits(waiting[0], batch_tokens))
                ended = writer.join(waiting.popleft()) if joins else writer.step()
                if ended:
                    yield [number for number, _ in ended], [done for _, done in ended]


def _portions(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], budget: int
) -> Iterator[deque[Portion]]:
    """Rows that can be written together, in portions of so many tokens: those that begin alike, and
    the others.

    Short rows come first: the few that go on for long then take the little more room that the next
    ones need, not all others theirs.
    """
    groups, rest = alike(rows)
    together = [
        ([i for group in several for i in group.numbers], several)
        for several in alike_by_tokens(groups, lengths, budget)
    ]
    yield deque(
        Portion(numbers, [rows[i] for i in numbers], several)
        for numbers, several in reversed(together)
    )
    # Any padding: what is padded is computed in attention alone.
    apart = [
        [rest[i] for i in numbers] for numbers in by_tokens([lengths[i] for i in rest], budget, inf)
    ]
    yield deque(Portion(numbers, [rows[i] for i in numbers]) for numbers in reversed(apart))


def _by_library(
    model: Any, prompts: list[list[int]], stop: int, instead: tuple[int, ...], limit: int
) -> list[Generated]:
    """The library's own loop, for architectures that our attention does not fit."""
    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for place, prompt in enumerate(
        prompts
    ):  # padded on the left: every row continues from its own last token
        ids[place, longest - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[place, longest - len(prompt) :] = 1
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
        begin_suppress_tokens=[instead[0], stop] if instead else None,
        return_dict_in_generate=True,
        output_logits=True,
    )
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
