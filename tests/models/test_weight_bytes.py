"""Memory of weights as they are loaded, from the headers of a model's files."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.models import loading, weight_sizes
from prooftune.types import Study
from prooftune.utils import profiling
from prooftune.variants import estimates

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


def write_llama_2_7b(folder: Path) -> Path:
    """A weight file with the tensors of Llama-2-7B, whose values are a hole in the file."""
    shapes = {name: [32_000, 4096] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    for layer in range(32):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": [4096, 4096] for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": [11_008, 4096] for name in ("gate", "up")}
        shapes[f"{prefix}.mlp.down_proj.weight"] = [4096, 11_008]
        shapes |= {f"{prefix}.{name}.weight": [4096] for name in ("input_layernorm", "post_norm")}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("quantization", "free", "tried"),
    [
        ({"load_in_4bit": True}, 15e9, True),  # QLoRA on a GPU of 16 GB
        (None, 15e9, False),
        (None, 24e9, True),
    ],
)
def test_check_tries_a_7b_model_where_its_loaded_weights_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantization: dict[str, Any] | None,
    free: float,
    tried: bool,
) -> None:
    values: dict[str, Any] = {
        "name": "study",
        "data": {"train": "a.csv", "text": "text", "label": "label"},
        "model": {"name": str(write_llama_2_7b(tmp_path)), "dtype": "bfloat16"},
        "variants": {"tuned": None},
        **({"quantization": quantization} if quantization else {}),
    }

    class Tried(Exception):
        pass

    def fails(*_: object) -> None:
        raise Tried

    monkeypatch.setattr(profiling, "available_memory", lambda: int(free))
    monkeypatch.setattr(estimates, "_estimate_tuned", fails)
    study = Study([], [], [], ["a", "b"])
    with pytest.raises(Tried) if tried else contextlib.nullcontext():
        assert estimates.estimate_costs(recipe.parse(values), study, tmp_path) is None


def test_what_the_allocator_caches_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000, 16_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 12_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2_000)
    assert profiling.available_memory() == 13_000
