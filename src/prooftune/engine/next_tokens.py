"""The next token of every sequence: chosen from log-probabilities, and appended."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prooftune.engine.sequences import Finished, SequenceState, TokenSelector
from prooftune.engine.uploads import upload_numbers


def append_tokens(
    sequences: Sequence[SequenceState],
    log_probs: Tensor,
    stop_token_id: int,
    max_new_tokens: int,
    token_selector: TokenSelector | None = None,
    sample: bool = False,
) -> Finished:
    """Append the next token to every active sequence; returns those that finish with it.

    Args:
        sequences: of the batch, finished ones included.
        log_probs: of the next token of each, [sequences, vocabulary].
        stop_token_id, max_new_tokens: see `generation.generate`.
        token_selector: picks each token. Default: the most likely one.
        sample: draw each token from the model's distribution instead.
    """
    if token_selector is None:
        tokens, values = _best_tokens(log_probs, sample)
    else:
        tokens = [
            stop_token_id
            if sequence.finished
            else token_selector(sequence.row_id, sequence.output.ids, own_log_probs)
            for sequence, own_log_probs in zip(sequences, log_probs, strict=True)
        ]
        chosen = upload_numbers(tokens, log_probs.device)[:, None]
        values = log_probs.gather(1, chosen)[:, 0].tolist()
    active = [
        (sequence, token, value)
        for sequence, token, value in zip(sequences, tokens, values, strict=True)
        if not sequence.finished
    ]
    for sequence, token, value in active:
        output, sequence.next_token = sequence.output, token
        output.log_prob += value
        output.stopped = token == stop_token_id
        if not output.stopped:
            output.ids.append(token)
        sequence.finished = output.stopped or len(output.ids) == max_new_tokens
    return [(s.row_id, s.output) for s, _, _ in active if s.finished]


def _best_tokens(log_probs: Tensor, sample: bool) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities, in one transfer to the host."""
    best = (
        # Finished sequences draw too, so that the order of draws is that of the batch.
        torch.multinomial(log_probs.float().exp(), 1)
        if sample
        else log_probs.argmax(dim=-1, keepdim=True)
    )
    # float32 holds ids up to 16 million exactly.
    pairs = torch.cat([log_probs.gather(1, best).float(), best.float()], dim=1)
    values, tokens = pairs.T.tolist()
    return [int(token) for token in tokens], values
