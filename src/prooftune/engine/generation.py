"""The one generation path: greedy decoding behind a shared prefix, ended by the learned stop token,
in continuous batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

import torch
from torch import nn

from prooftune.engine.batching import (
    batch_by_token_budget,
    batch_prefix_groups,
    group_by_common_prefix,
)
from prooftune.engine.decoding import ContinuousBatcher, Generated, PrefillBatch, TokenSelector
from prooftune.engine.forward import get_backbone, prefix_cache, use_shared_prefix_attention
from prooftune.engine.scoring import score_labels
from prooftune.errors import Failure


def generate(
    model: nn.Module,
    prefix: Sequence[int],
    rows: Sequence[Sequence[int]],
    stop_token_id: int,
    *,
    max_new_tokens: int,
    batch_tokens: int = 8192,
    alternative_ids: Sequence[int] = (),
    token_selector: TokenSelector | None = None,
) -> Iterator[tuple[list[int], list[Generated]]]:
    """Continue every prompt with the likeliest token, step by step.

    Args:
        model: a causal language model, adapters included.
        prefix: ids that all prompts begin with.
        rows: ids after the prefix, none empty.
        stop_token_id: id of the token that ends an answer; it is counted among `max_new_tokens`.
        max_new_tokens: most tokens written.
        batch_tokens: most tokens that are held at one time, those to come included; a single row or
            group may have more.
        alternative_ids: ids of a text that is scored, and not written: its first token is refused
            as the first one.
        token_selector: picks each token where not the likeliest is wanted.

    Yields:
        Numbers of rows that have ended, and what was written for them, as soon as there are some.
    """
    lengths = [len(row) + len(alternative_ids) + max_new_tokens for row in rows]
    with torch.no_grad(), use_shared_prefix_attention(model) as shared:
        if not shared:
            if token_selector is not None:
                raise Failure(
                    "decoding under a constraint needs an architecture that Prooftune's own "
                    "attention fits; set "
                    "answering.constrained: false"
                )
            for numbers in batch_by_token_budget(lengths, batch_tokens, inf):
                yield (
                    numbers,
                    _by_library(
                        model,
                        [[*prefix, *rows[i]] for i in numbers],
                        stop_token_id,
                        tuple(alternative_ids),
                        max_new_tokens,
                    ),
                )
            return
        cache = prefix_cache(get_backbone(model), prefix)
        for waiting in _portions(rows, lengths, batch_tokens // 2):
            writer = ContinuousBatcher(
                model,
                cache,
                len(prefix),
                stop_token_id,
                max_new_tokens,
                alternative_ids,
                token_selector,
            )
            while waiting or writer.going:
                joins = waiting and (not writer.going or writer.fits(waiting[0], batch_tokens))
                ended = writer.join(waiting.popleft()) if joins else writer.step()
                if ended:
                    yield [number for number, _ in ended], [done for _, done in ended]


def _portions(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], budget: int
) -> Iterator[deque[PrefillBatch]]:
    """Rows that can be written together, in portions of so many tokens: those that begin alike, and
    the others.

    Short rows come first: the few that go on for long then take the little more room that the next
    ones need, not all others theirs.
    """
    groups, rest = group_by_common_prefix(rows)
    together = [
        ([i for group in several for i in group.row_ids], several)
        for several in batch_prefix_groups(groups, lengths, budget)
    ]
    yield deque(
        PrefillBatch(numbers, [rows[i] for i in numbers], several)
        for numbers, several in reversed(together)
    )
    # Any padding: what is padded is computed in attention alone.
    apart = [
        [rest[i] for i in numbers]
        for numbers in batch_by_token_budget([lengths[i] for i in rest], budget, inf)
    ]
    yield deque(PrefillBatch(numbers, [rows[i] for i in numbers]) for numbers in reversed(apart))


def _by_library(
    model: Any,
    prompts: list[list[int]],
    stop_token_id: int,
    alternative_ids: tuple[int, ...],
    limit: int,
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
        eos_token_id=stop_token_id,
        pad_token_id=stop_token_id,
        begin_suppress_tokens=[alternative_ids[0], stop_token_id] if alternative_ids else None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    log_probs = torch.stack(out.logits, dim=1).float().log_softmax(-1)
    written = out.sequences[:, longest:]
    chosen = log_probs.gather(2, written[..., None])[..., 0].tolist()
    done = []
    for row, values in zip(written.tolist(), chosen, strict=True):
        length = row.index(stop_token_id) if stop_token_id in row else len(row)
        done.append(Generated(row[:length], sum(values[: length + 1]), stop_token_id in row))
    if alternative_ids:
        for numbers, scores in score_labels(model, [], prompts, [alternative_ids], stop_token_id):
            for number, value in zip(numbers, scores[:, 0].tolist(), strict=True):
                done[number].no_answer_log_prob = value
    return done
