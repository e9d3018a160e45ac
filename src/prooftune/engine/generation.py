"""The one generation path: greedy decoding in batches, ended by the learned stop token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from prooftune import recipe
from prooftune.engine.batches import by_tokens

if TYPE_CHECKING:
    from prooftune.tasks.prompts import Encoder


def generate(
    model: nn.Module, encoder: Encoder, rows: Sequence[Sequence[int]], settings: recipe.Scoring
) -> Iterator[tuple[list[int], list[str]]]:
    """Continue every prompt greedily for at most `settings.max_new_tokens` tokens.

    Yields:
        Row numbers of a batch and the generated texts, without the stop token.
    """
    prompts = [[*encoder.prefix, *row] for row in rows]
    lengths = [len(p) + settings.max_new_tokens for p in prompts]
    device = next(model.parameters()).device
    causal: nn.Module = model
    for numbers in by_tokens(lengths, settings.batch_tokens):
        longest = max(len(prompts[i]) for i in numbers)
        ids = torch.zeros(len(numbers), longest, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for place, i in enumerate(numbers):  # padded on the left: every row continues from its own last token
            ids[place, longest - len(prompts[i]) :] = torch.tensor(prompts[i], device=device)
            mask[place, longest - len(prompts[i]) :] = 1
        with torch.no_grad():
            out = causal.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, do_sample=False,
                eos_token_id=encoder.stop, pad_token_id=encoder.stop)
        yield numbers, [encoder.decode_answer(row[longest:].tolist()) for row in out]
