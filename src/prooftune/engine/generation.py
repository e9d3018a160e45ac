"""The one generation path: greedy decoding or sampling behind a shared prefix, with continuous
batching.

A sequence ends with the stop token that the model has learned, or at the limit.
"""

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
from prooftune.engine.compatibility import use_shared_prefix_attention
from prooftune.engine.continuous_batching import ContinuousBatcher
from prooftune.engine.forward import compute_prefix_cache
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.scoring import score_labels
from prooftune.engine.sequences import Generated, PrefillBatch, TokenSelector
from prooftune.engine.uploads import upload
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
    sample: bool = False,
) -> Iterator[tuple[list[int], list[Generated]]]:
    """Continue every prompt by greedy decoding, or by sampling from the model's distribution.

    Args:
        model: a causal language model, adapters included.
        prefix: token ids that all prompts start with.
        rows: token ids after the prefix, none empty.
        stop_token_id: token that ends an answer; counts towards `max_new_tokens`.
        max_new_tokens: maximum number of tokens generated per prompt.
        batch_tokens: maximum number of tokens in the KV cache, those to come included; a single row
            or group may have more.
        alternative_ids: token ids of an alternative, such as "no answer" and its stop token, that
            is scored in `Generated.no_answer_log_prob` and not generated: its first token and the
            stop token are suppressed as first tokens.
        token_selector: picks each token, for constrained decoding. Default: the most likely one.
        sample: draw each token from the model's distribution (temperature 1, nothing cut off) by
            torch's global random generator, instead of taking the most likely one.

    Yields:
        Numbers of rows that have finished, and what was generated for them, as soon as there are
        some.

    Raises:
        Failure: a `token_selector` with an architecture that our attention does not support.
    """
    # Room is reserved for the longest possible answer: a sequence cannot be evicted once admitted.
    lengths = [len(row) + len(alternative_ids) + max_new_tokens for row in rows]
    with torch.no_grad(), use_shared_prefix_attention(model) as supported:
        if not supported:
            if token_selector is not None:
                raise Failure(
                    "constrained decoding needs an architecture that supports Prooftune's own "
                    "attention; set answering.constrained: false"
                )
            for row_ids in batch_by_token_budget(lengths, batch_tokens, inf):
                yield (
                    row_ids,
                    _generate_with_transformers(
                        model,
                        [[*prefix, *rows[i]] for i in row_ids],
                        stop_token_id,
                        tuple(alternative_ids),
                        max_new_tokens,
                        sample,
                    ),
                )
            return
        cache = compute_prefix_cache(get_backbone(model), prefix)
        # Half of the budget per prefill, so that a batch can be admitted while another decodes.
        for waiting in _prefill_queues(rows, lengths, batch_tokens // 2):
            batcher = ContinuousBatcher(
                model,
                cache,
                len(prefix),
                stop_token_id,
                max_new_tokens,
                alternative_ids,
                token_selector,
                sample,
            )
            while waiting or batcher.num_active:
                # A batch larger than the budget is admitted when nothing else is active.
                admits = waiting and (
                    not batcher.num_active or batcher.has_capacity(waiting[0], batch_tokens)
                )
                finished = batcher.admit(waiting.popleft()) if admits else batcher.decode_step()
                if finished:
                    yield [row_id for row_id, _ in finished], [output for _, output in finished]


def _prefill_queues(
    rows: Sequence[Sequence[int]], lengths: Sequence[int], budget: int
) -> Iterator[deque[PrefillBatch]]:
    """Queues of prefill batches of at most `budget` tokens.

    First the rows with common prefixes, then all others. Short rows come first: the few that decode
    for long then reserve little capacity for the longer rows to come, instead of all rows reserving
    that of the longest.
    """
    groups, rest = group_by_common_prefix(rows)
    group_batches = [
        ([i for group in batch for i in group.row_ids], batch)
        for batch in batch_prefix_groups(groups, lengths, budget)
    ]
    # Both batchers put the longest rows first; here the shortest are to be first.
    yield deque(
        PrefillBatch(row_ids, [rows[i] for i in row_ids], batch)
        for row_ids, batch in reversed(group_batches)
    )
    # Any amount of padding: only attention computes it.
    single_batches = [
        [rest[i] for i in indices]
        for indices in batch_by_token_budget([lengths[i] for i in rest], budget, inf)
    ]
    yield deque(
        PrefillBatch(row_ids, [rows[i] for i in row_ids]) for row_ids in reversed(single_batches)
    )


def _generate_with_transformers(
    model: nn.Module,
    prompts: list[list[int]],
    stop_token_id: int,
    alternative_ids: tuple[int, ...],
    max_new_tokens: int,
    sample: bool,
) -> list[Generated]:
    """transformers' own generation loop, for architectures without support for our attention."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    # Left padding, so that every row continues from its own last token.
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    transformer: Any = model
    device = next(model.parameters()).device
    out = transformer.generate(
        input_ids=upload(ids, device),
        attention_mask=upload(mask, device),
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        # Or a model's generation config may cut the distribution off.
        **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
        eos_token_id=stop_token_id,
        pad_token_id=stop_token_id,
        # Llama has no padding token. Any id would do: finished rows are cut at the stop token.
        begin_suppress_tokens=[alternative_ids[0], stop_token_id] if alternative_ids else None,
        return_dict_in_generate=True,
        # Raw logits: scores after suppression are normalised without the suppressed tokens, unlike
        # those of our own loop.
        output_logits=True,
    )
    log_probs = torch.stack(out.logits, dim=1).float().log_softmax(-1)
    # (rows, new tokens, vocabulary) -> one log-probability per generated token.
    tokens = out.sequences[:, longest:]  # (rows, new tokens)
    token_log_probs = log_probs.gather(2, tokens[..., None])[..., 0].tolist()
    outputs = []
    for row, values in zip(tokens.tolist(), token_log_probs, strict=True):
        # transformers pads finished rows with the stop token.
        length = row.index(stop_token_id) if stop_token_id in row else len(row)
        # The stop token's log-probability counts, as in our own loop: hence one more than `length`.
        outputs.append(Generated(row[:length], sum(values[: length + 1]), stop_token_id in row))
    # A second pass, since transformers' loop cannot score tokens that it does not generate.
    if alternative_ids:
        for row_ids, scores in score_labels(model, [], prompts, [alternative_ids], stop_token_id):
            for row_id, value in zip(row_ids, scores[:, 0].tolist(), strict=True):
                outputs[row_id].no_answer_log_prob = value
    return outputs
