"""Dtypes and quantisation that a model is loaded with where the recipe says nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prooftune import recipe
from prooftune.models import loading
from prooftune.preflight.quantization import check_quantization

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4, RTX 20: torch reports emulated bfloat16 as supported
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_where_a_gpu_multiplies_it_natively(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert loading.compute_dtype() == expected


@pytest.mark.parametrize(
    ("features", "capability", "expected"),
    [
        ({"avx512_bf16"}, "AVX512", torch.bfloat16),
        ({"amx_tile"}, "AVX512_AMX", torch.bfloat16),
        ({"avx512_bf16"}, "AVX2", torch.float32),  # ATEN_CPU_CAPABILITY
        ({"avx512_bf16"}, "DEFAULT", torch.float32),
        (set(), "AVX512", torch.float32),
        (set(), "AVX2", torch.float32),
    ],
)
def test_bfloat16_on_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, features: set[str], capability: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda n=name: n in features)
    assert loading.compute_dtype() == expected


@needs_bitsandbytes
def test_four_bits_mean_qlora_unless_the_recipe_says_otherwise() -> None:
    config = loading.quantization_config({"load_in_4bit": True}, torch.bfloat16)
    assert config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    own = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float16",
    }
    config = loading.quantization_config(own, torch.bfloat16)
    assert config.bnb_4bit_quant_type == "fp4" and not config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.float16
    config = loading.quantization_config({"load_in_8bit": True}, torch.bfloat16)
    assert config.load_in_8bit and not config.load_in_4bit


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_layer_of_a_four_bit_model_computes_in_another_dtype(tmp_path: Path, dtype: str) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    options = recipe.Model(name=str(tmp_path), dtype=dtype)  # type: ignore[arg-type]
    config.pad_token_id = 0
    config.save_pretrained(tmp_path)
    model = loading.load_model(tmp_path, options, quantization={"load_in_4bit": True})
    layers: list[Any] = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    assert layers and {m.compute_dtype for m in layers} == {getattr(torch, dtype)}
    assert {m.weight.quant_type for m in layers} == {"nf4"}


@pytest.mark.parametrize("section", ["quantization", "variants.tuned.quantization"])
def test_a_missing_library_is_said_once_and_where(
    monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        loading, "find_spec", lambda name: None if name == "bitsandbytes" else found(name)
    )
    options: dict[str, Any] = {"load_in_4bit": True}
    own = section.startswith("variants")
    parsed = recipe.parse(
        {
            "name": "x",
            "task": "classification",
            "data": {"train": "a.csv", "text": "t", "label": "l"},
            "variants": {"tuned": {"kind": "tuned", **({"quantization": options} if own else {})}},
            **({} if own else {"quantization": options}),
        }
    )
    (finding,) = check_quantization(parsed.for_variant("tuned"), "tuned")
    assert str(finding) == (
        f"{section}: needs bitsandbytes, which is not installed: pip install "
        "'prooftune[quantization]'"
    )
