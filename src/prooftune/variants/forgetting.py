"""Catastrophic forgetting: perplexity on general text before and after tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prooftune.engine.model_parts import get_backbone
from prooftune.engine.precision import autocast
from prooftune.errors import UsageError
from prooftune.utils import package_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WINDOW_TOKENS = 256
_MAX_TOKENS = 8192


def general_text(reference: str | None, base: Path) -> tuple[str, str]:
    """The text on which perplexity is measured, and its name.

    Args:
        reference: a file or package reference of the recipe. Default: English text that ships with
            Prooftune.
        base: folder against which a relative path is resolved.

    Raises:
        UsageError: the recipe's file does not exist or is not UTF-8 text.
    """
    if reference is None:
        return (resources.files("prooftune.variants") / "general_english.txt").read_text(
            "utf-8"
        ), "general_english.txt"
    path = (
        package_files.fetch(reference)
        if package_files.is_reference(reference)
        else base / reference
    )
    try:
        return path.read_text(encoding="utf-8"), path.name
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"forgetting: {path} cannot be read as UTF-8 text: {error}") from None


def perplexity(
    model: nn.Module,
    output_head: Callable[[Tensor], Tensor],
    tokenizer: PreTrainedTokenizerBase,
    text: str,
) -> tuple[float, int]:
    """Perplexity per token over windows of 256 tokens, and the number of tokens.

    Args:
        model: computes the hidden states, with its adapters.
        output_head: hidden states [..., hidden] -> logits [..., vocabulary]; the base model's
            output head for a model that ends in a classification head.
        tokenizer, text: at most the first 8,192 tokens are used.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids[:_MAX_TOKENS]
    # The first token of a window is predicted from the start token, as in pretraining.
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    backbone, device = get_backbone(model), next(model.parameters()).device
    total, count = 0.0, 0
    with torch.no_grad(), autocast(model):
        # Windows do not see one another. That raises the perplexity, before and after tuning alike.
        for begin in range(0, len(ids), _WINDOW_TOKENS):
            window = torch.tensor([start + ids[begin : begin + _WINDOW_TOKENS]], device=device)
            # A single token predicts nothing.
            if window.shape[1] < 2:
                continue
            hidden = backbone(input_ids=window, use_cache=False).last_hidden_state[0, :-1]
            total += float(
                nn.functional.cross_entropy(output_head(hidden), window[0, 1:], reduction="sum")
            )
            count += window.shape[1] - 1
    return (math.exp(total / count) if count else float("nan")), count
