"""Fused LoRA layers over 4-bit and 8-bit weights give what peft's layers give, and save less."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.test_fused import IDS, outcome
from prooftune import recipe
from prooftune.engine.fused import lora, patching
from prooftune.engine.fused.quantized_weights import dequantized_weight, is_quantized
from prooftune.engine.model_parts import get_backbone
from prooftune.models import adapters
from prooftune.models.loading import load_model
from prooftune.training.memory import count_saved_bytes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True},
    "nf4, one quantisation": {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
    "some layers in int8": {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "k_proj"]},
}


def quantized(folder: Path, dtype: str, quantization: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(0)
    model = load_model(
        folder,
        recipe.Model.model_validate({"name": "tiny", "dtype": dtype, "attention": "eager"}),
        quantization=quantization,
    )
    model = adapters.make_trainable(model, recipe.Variant(kind="tuned"), {"r": 4, **options})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros would hide the adapters
            nn.init.normal_(parameter, std=0.05)
    return model.train()


def count_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups of layers that are computed together, as they are computed."""
    sizes: list[int] = []
    original = lora.FusedLoraGroup._compute

    def compute(self: Any, x: Tensor) -> Any:
        sizes.append(len(self.layers))
        return original(self, x)

    monkeypatch.setattr(lora.FusedLoraGroup, "_compute", compute)
    return sizes


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_losses_and_gradients_are_those_of_pefts_layers(
    wide_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = quantized(wide_model_folder, "float32", QUANTIZATIONS[name])
    kinds = {type(module).__name__ for module in model.modules() if is_quantized(module)}
    assert kinds == {"Linear8bitLt" if "int8" in name else "Linear4bit"}
    sizes = count_groups(monkeypatch)
    expected, expected_grads = outcome(model)
    assert not sizes
    with patching.fused(model):
        actual, grads = outcome(model)
    # q, k, v; o; gate, up; down.
    assert sizes == [3, 1, 2, 1] * model.config.num_hidden_layers
    # LLM.int8 rounds activations to 8 bits: a small difference before it may move a step.
    tolerance = 2e-3 if "int8" in name else 1e-4
    assert (actual - expected).norm() <= tolerance * expected.norm()
    assert grads.keys() == expected_grads.keys() and grads
    for key, grad in grads.items():
        assert (grad - expected_grads[key]).norm() <= 3 * tolerance * expected_grads[key].norm()


def dequantized(model: Any) -> Any:
    """The same model in float32, with the weights that the quantized ones stand for."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            if is_quantized(child):
                plain = nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight = nn.Parameter(dequantized_weight(child, torch.float32), False)
                setattr(module, name, plain)
    return copied.float()


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_bfloat16_is_as_close_to_float32_as_pefts_layers(
    wide_model_folder: Path, name: str
) -> None:
    model = quantized(wide_model_folder, "bfloat16", QUANTIZATIONS[name])
    exact, exact_grads = outcome(dequantized(model))
    theirs, their_grads = outcome(model)
    with patching.fused(model):
        ours, grads = outcome(model)
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm()

    def error(values: dict[str, Tensor]) -> float:
        return float(sum((values[key] - grad).square().sum() for key, grad in exact_grads.items()))

    assert error(grads) <= 1.2**2 * error(their_grads)


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_one_layer_has_the_formulas_of_its_dequantised_weight(
    wide_model_folder: Path, name: str
) -> None:
    """In float64, from the weight that the library itself dequantises."""
    model = quantized(wide_model_folder, "float32", QUANTIZATIONS[name])
    backbone: Any = get_backbone(model)
    layer = backbone.layers[0].mlp.down_proj
    base, a, b = layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]
    weight = dequantized_weight(base, torch.float64)
    assert weight.shape == (base.out_features, base.in_features)
    x = torch.randn(2, 5, base.in_features, generator=torch.Generator().manual_seed(1))
    with patching.fused(model):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        grads = torch.autograd.grad(out, [leaf, a.weight, b.weight], grad)
    exact = x.double().requires_grad_()
    down, up = (t.weight.detach().double().requires_grad_() for t in (a, b))
    expected = exact @ weight.T + layer.scaling["default"] * (exact @ down.T) @ up.T
    wanted = torch.autograd.grad(expected, [exact, down, up], grad.double())
    # 8-bit products round the activations as well; 4-bit ones do not.
    close = 0.02 if name == "int8" else 1e-5
    assert (out - expected).norm() <= close * expected.norm()
    for ours, theirs in zip(grads, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_no_dequantised_weight_is_kept(wide_model_folder: Path, name: str) -> None:
    model = quantized(wide_model_folder, "bfloat16", QUANTIZATIONS[name])
    saved = []
    for use_fused in (False, True):
        with torch.autocast("cpu", torch.bfloat16), count_saved_bytes(model) as total:
            if use_fused:
                with patching.fused(model):
                    get_backbone(model)(input_ids=IDS, use_cache=False)
            else:
                get_backbone(model)(input_ids=IDS, use_cache=False)
        saved.append(total[0])
    by_peft, ours = saved
    assert ours <= 0.75 * by_peft


def test_layers_with_dropout_or_a_disabled_adapter_run_pefts_code(
    wide_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count_groups(monkeypatch)
    model = quantized(wide_model_folder, "float32", QUANTIZATIONS["nf4"], lora_dropout=0.5)
    with patching.fused(model):
        outcome(model)
        assert not sizes
        outcome(model.eval())
        assert sizes
        sizes.clear()
        with model.disable_adapter(), torch.no_grad():
            get_backbone(model)(input_ids=IDS, use_cache=False)
    assert not sizes
