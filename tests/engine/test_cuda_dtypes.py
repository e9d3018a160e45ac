"""Dtypes under CUDA's autocast, on fake CUDA tensors: no GPU is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig

from prooftune import recipe
from prooftune.engine.fused import lora, patching, rms_norm, rope
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.models import adapters

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """`torch.autocast` switches itself off where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def move_to_cuda(model: nn.Module) -> None:
    """Replace all parameters and buffers by fake CUDA tensors."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(fake, parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_lora_layers_are_fused_under_cuda_autocast(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's autocast lists rms_norm among the operations that return float32."""
    groups: list[int] = []
    original = lora.FusedLoraGroup.weights

    def weights(self: Any, rows: torch.Tensor) -> Any:
        assert rows.dtype == dtype
        groups.append(len(self.layers))
        return original(self, rows)

    # Fake tensors have no values, by which norms and RoPE would be tried out.
    monkeypatch.setattr(rms_norm, "_is_rms_norm", lambda norm: True)
    monkeypatch.setattr(rope, "_is_standard_rope", lambda *args: True)
    monkeypatch.setattr(lora.FusedLoraGroup, "weights", weights)
    model: Any = AutoModelForCausalLM.from_config(CONFIG, dtype=dtype, attn_implementation="sdpa")
    model = adapters.make_trainable(model, recipe.Variant(kind="tuned"), {"r": 4})
    disable_lora_input_upcast(model)
    with FakeTensorMode():
        move_to_cuda(model)
        x = torch.empty(1, 8, 32, dtype=dtype, device="cuda")
        with torch.no_grad(), cuda_autocast(dtype), patching.fused(model):
            assert nn.functional.rms_norm(x, (32,)).dtype == torch.float32
            backbone: Any = get_backbone(model)
            layer = backbone.layers[0]
            normed = layer.input_layernorm(x)
            assert normed.dtype == dtype
            attention = [
                getattr(layer.self_attn, f"{name}_proj")(normed) for name in ("q", "k", "v")
            ]
            out = layer.mlp(layer.post_attention_layernorm(x))
    assert {t.dtype for t in (*attention, out)} == {dtype}
    assert groups == [3, 2, 1]  # q, k, v; gate, up; down
