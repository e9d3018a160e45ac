"""Token budgets follow the free memory of a GPU, the prefix and the KV cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from prooftune import recipe
from prooftune.engine import token_budget as budgets
from prooftune.engine.token_budget import bytes_per_token, cache_bytes, token_budget

LLAMA_2_7B = LlamaConfig()
LLAMA_3_1B = LlamaConfig(
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=128256,
)


def budget(
    monkeypatch: pytest.MonkeyPatch, device: str, free: float, setting: Any = "auto", **options: Any
) -> int:
    values: dict[str, Any] = {"prefix_length": 0, "logits_per_token": 0.0, "keeps_cache": True}
    monkeypatch.setattr(budgets, "available_memory", lambda: int(free))
    monkeypatch.setattr(budgets, "base_model", lambda _: SimpleNamespace(config=LLAMA_2_7B))
    model: Any = SimpleNamespace(
        parameters=lambda: iter([SimpleNamespace(device=torch.device(device))])
    )
    return token_budget(model, setting, 4096, **{**values, **options})


def test_sizes_by_hand() -> None:
    # 32 layers of 32 heads of 128 values, keys and values, 2 bytes each.
    assert cache_bytes(LLAMA_2_7B) == 32 * 32 * 128 * 2 * 2 == 512 * 1024
    assert cache_bytes(LLAMA_3_1B) == 16 * 8 * 64 * 2 * 2
    layer = 2 * (6 * 4096 + 3 * 11008)
    assert bytes_per_token(LLAMA_2_7B, 0, False) == layer
    assert bytes_per_token(LLAMA_2_7B, 0.5, True) == layer + 10 * 32000 / 2 + 512 * 1024


def test_cpus_and_numbers_in_the_recipe_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget(monkeypatch, "cpu", 1e9) == 4096
    assert budget(monkeypatch, "cuda", 1e9, 777) == 777
    assert recipe.Scoring().batch_tokens == "auto"
    assert recipe.Scoring.model_validate({"batch_tokens": 512}).batch_tokens == 512
    with pytest.raises(ValueError, match="batch_tokens"):
        recipe.Scoring.model_validate({"batch_tokens": 0})


def test_a_gpu_is_filled_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = budget(monkeypatch, "cuda", 2e9), budget(monkeypatch, "cuda", 8e9)
    assert 1_000 < small < large < 10_000
    for free, tokens in ((2e9, small), (8e9, large)):
        assert tokens * bytes_per_token(LLAMA_2_7B, 0, True) <= 0.6 * free
    # An 800-token prefix of Llama-2-7B holds 0.42 GB, once.
    with_prefix = budget(monkeypatch, "cuda", 2e9, prefix_length=800)
    held = (with_prefix * bytes_per_token(LLAMA_2_7B, 0, True)) + 800 * cache_bytes(LLAMA_2_7B)
    assert with_prefix < small and held <= 0.6 * 2e9
    assert budget(monkeypatch, "cuda", 1e6) == budgets.MIN_TOKENS
    assert budget(monkeypatch, "cuda", 1e12) == budgets.MAX_TOKENS


def test_a_model_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 2)
    assert token_budget(
        layer, "auto", 8192, prefix_length=0, logits_per_token=1, keeps_cache=False
    ) == 8192  # fmt: skip
