"""What tuning changed is measured against the untuned model with one model in memory at a time."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import prooftune
from prooftune.engine.model_parts import get_output_head
from prooftune.models import loading, weight_changes
from prooftune.models.stored_tensors import load_output_head
from prooftune.variants import forgetting
from study.small import details_of, small_recipe


@pytest.mark.parametrize("architecture", ["llama", "llama3", "gemma2"])
def test_the_output_head_alone_gives_the_models_logits(
    model_folders: dict[str, Path], architecture: str
) -> None:
    """Tied and untied weights, with soft-capping and without."""
    folder = model_folders[architecture]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    hidden = torch.randn(5, model.config.hidden_size)
    expected = get_output_head(model)(hidden)
    actual = load_output_head(folder, torch.float32)(hidden)
    assert torch.equal(actual, expected)


def models_in_memory() -> int:
    gc.collect()
    models = [item for item in gc.get_objects() if isinstance(item, PreTrainedModel)]
    return len({id(model.base_model) for model in models})


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [{}, {"objective": "head"}, {"method": "full"}, {"method": "full", "objective": "head"}],
)
def test_perplexity_and_changes_equal_those_against_a_model_loaded_for_it(
    tmp_path: Path,
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    variant: dict[str, Any],
) -> None:
    alive: list[int] = []
    measure = forgetting.perplexity

    def counting(model: nn.Module, *arguments: Any) -> tuple[float, int]:
        alive.append(models_in_memory())
        return measure(model, *arguments)

    at_start = models_in_memory()
    monkeypatch.setattr("prooftune.variants.tuned.perplexity", counting)
    values = small_recipe(
        model_folders["llama"], tmp_path, variants={"tuned": {"kind": "tuned", **variant}}
    )
    result = prooftune.run(values, out=tmp_path / "run")
    details = details_of(result.folder, "tuned")
    assert alive == [at_start + 1, at_start + 1]

    base = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype="float32").eval()
    tokenizer = loading.load_tokenizer(model_folders["llama"])
    text, _ = forgetting.general_text(None, tmp_path)
    expected, tokens = measure(base, get_output_head(base), tokenizer, text)
    assert details["forgetting"]["perplexity_before"] == pytest.approx(expected, rel=1e-5)
    assert details["forgetting"]["tokens"] == tokens
    assert details["forgetting"]["perplexity_after"] != expected
    assert details["changes"]["relative_change_total"] > 0


def test_full_changes_by_hand(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype="float32")
    layer = model.model.layers[0].mlp.up_proj
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 0.5 * torch.outer(torch.ones(before.shape[0]), torch.ones(before.shape[1]))
    changes = weight_changes.full_weight_changes(model_folders["llama"], model)
    by_name = {layer["name"]: layer for layer in changes["layers"]}
    entry = by_name.pop("layers.0.mlp.up_proj")
    norm = 0.5 * (before.numel() ** 0.5)
    assert entry["relative_change"] == pytest.approx(norm / before.norm().item(), rel=1e-5)
    assert entry["effective_rank"] == pytest.approx(1, abs=0.05)
    assert by_name and all(other["relative_change"] == 0 for other in by_name.values())
