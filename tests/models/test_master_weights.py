"""Modules that are trained in full beside a 16-bit model have float32 master weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.engine.precision import autocast
from prooftune.models import adapters
from prooftune.models.loading import load_model

TUNED = recipe.Variant(kind="tuned")


def adapted(folder: Path, dtype: str, modules: list[str]) -> Any:
    options = recipe.Model.model_validate({"name": "tiny", "dtype": dtype})
    torch.manual_seed(0)
    return adapters.make_trainable(
        load_model(folder, options), TUNED, {"r": 4, "modules_to_save": modules}
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"], ["norm", "lm_head"]])
def test_saved_modules_train_in_float32_and_compute_in_the_models_dtype(
    model_folders: dict[str, Path], tmp_path: Path, dtype: str, modules: list[str]
) -> None:
    model = adapted(model_folders["llama"], dtype, modules)
    half = getattr(torch, dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    ids = torch.tensor([[5, 6, 7, 8]])
    seen: set[torch.dtype] = set()
    for layer in model.get_base_model().model.layers:
        layer.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    with autocast(model):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert seen == {half}
    # A step that bfloat16 (8 bits) or float16 (11 bits) would round away.
    step = 1e-6
    before = [p.detach().clone() for p in trained]
    torch.optim.SGD(trained, lr=step).step()
    full = [p for n, p in model.named_parameters() if "modules_to_save" in n and p.requires_grad]
    assert len(full) >= len(modules)
    for parameter in full:
        (old,) = [b for b, p in zip(before, trained, strict=True) if p is parameter]
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert (parameter != old).any()

    adapters.remove_master_weights(model)
    assert {p.dtype for p in full} == {half}
    # What is saved and read back gives the same outputs.
    with torch.no_grad(), autocast(model):
        expected = model.eval()(input_ids=ids).logits
    adapters.save_tuned(model, tmp_path / "trained", "lora", half)
    options = recipe.Model.model_validate({"name": "tiny", "dtype": dtype})
    loaded = adapters.load_tuned(
        model_folders["llama"], tmp_path / "trained", options, quantization=None, labels=None
    )
    with torch.no_grad(), autocast(loaded):
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_training_that_is_continued_has_master_weights_too(
    model_folders: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    model, half = adapted(model_folders["llama"], dtype, ["lm_head"]), getattr(torch, dtype)
    adapters.remove_master_weights(model)
    adapters.save_tuned(model, tmp_path / "trained", "lora", half)
    options = recipe.Model.model_validate({"name": "tiny", "dtype": dtype})
    continued: Any = adapters.load_to_continue(
        model_folders["llama"], tmp_path / "trained", options, quantization=None, method="lora"
    )
    trained = {n: p for n, p in continued.named_parameters() if p.requires_grad}
    assert any("lm_head" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    adapters.remove_master_weights(continued)
    assert {p.dtype for n, p in trained.items() if "lm_head" in n} == {half}


def test_float32_models_are_left_as_they_are(model_folders: dict[str, Path]) -> None:
    model = adapted(model_folders["llama"], "float32", ["lm_head"])
    state = {n: p.data_ptr() for n, p in model.named_parameters()}
    adapters.remove_master_weights(model)
    assert state == {n: p.data_ptr() for n, p in model.named_parameters()}
