"""Memory of weights as they are loaded, from the headers of a model's files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.models import loading, weight_sizes
from prooftune.utils import profiling

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def loaded_bytes(model: Any) -> int:
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.numel() * state.absmax.element_size()
            if state.nested:
                total += state.state2.absmax.numel() * 4
    return total


@needs_bitsandbytes
@pytest.mark.parametrize(
    "quantization",
    [
        None,
        {"load_in_4bit": True},
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
        {"load_in_8bit": True},
    ],
)
def test_estimated_bytes_are_those_of_the_loaded_model(
    wide_model_folder: Path, quantization: dict[str, Any] | None
) -> None:
    options = recipe.Model(name="tiny", dtype="bfloat16")
    model = loading.load_model(wide_model_folder, options, quantization=quantization)
    expected = weight_sizes.weight_bytes(wide_model_folder, 2, quantization)
    # Codebooks and scales of small matrices weigh more than those of large ones.
    assert expected == pytest.approx(loaded_bytes(model), rel=0.03)


def test_what_the_allocator_caches_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000, 16_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 12_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2_000)
    assert profiling.available_memory() == 13_000
