"""Token budgets of scoring and generation batches: fixed on CPUs, from the free memory on GPUs."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from prooftune.engine.model_parts import base_model
from prooftune.utils.profiling import available_memory

MEMORY_SHARE = 0.6
"""Share of the free memory that a batch may take; the rest is for attention weights of padded
batches and for fragmentation."""

MIN_TOKENS, MAX_TOKENS = 256, 65_536
"""Bounds of a chosen budget. Above the largest a GPU gains nothing."""


def token_budget(
    model: nn.Module,
    setting: int | Literal["auto"],
    default: int,
    *,
    prefix_length: int,
    logits_per_token: float,
    keeps_cache: bool,
) -> int:
    """Tokens per batch.

    Args:
        model: the model, on its device.
        setting: of the recipe. ``auto``: chosen here.
        default: budget on CPUs, where larger batches leave the cache.
        prefix_length: tokens of the shared prefix, whose keys and values are held once.
        logits_per_token: positions with logits, as a share of all tokens.
        keeps_cache: whether keys and values of all layers are kept, as in generation.
    """
    if setting != "auto":
        return setting
    device = next(model.parameters()).device
    free = available_memory()
    if device.type != "cuda" or free is None:
        return default
    config = base_model(model).config
    per_token = bytes_per_token(config, logits_per_token, keeps_cache)
    available = MEMORY_SHARE * free - prefix_length * cache_bytes(config)
    return int(min(MAX_TOKENS, max(MIN_TOKENS, available / per_token)))


def cache_bytes(config: Any) -> int:
    """Keys and values of one token in all layers, in 16 bits."""
    # Older configurations have no key heads of their own (no GQA); Gemma 2 and Qwen 3 set a head
    # size that is not hidden size / heads.
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Keys and values, two bytes each.
    return int(2 * 2 * config.num_hidden_layers * heads * size)


def bytes_per_token(config: Any, logits_per_token: float, keeps_cache: bool) -> float:
    """Peak bytes of one token in a forward pass without gradients, in 16 bits.

    Args:
        config: of the model.
        logits_per_token: positions with logits, as a share of all tokens.
        keeps_cache: whether keys and values of all layers are kept.
    """
    # The residual, its norm, queries, keys, values and the attention's output; gate, up and their
    # product.
    layer = 2 * (6 * config.hidden_size + 3 * config.intermediate_size)
    # Logits in 16 and in 32 bits, and their log-probabilities in 32.
    logits = (2 + 4 + 4) * config.vocab_size * logits_per_token
    return float(layer + logits + (cache_bytes(config) if keeps_cache else 0))
