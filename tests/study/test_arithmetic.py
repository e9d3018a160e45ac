"""Whole studies in 16-bit arithmetic, which is the default wherever the processor has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prooftune
from prooftune.models import loading
from prooftune.preflight import precision
from study.small import accuracy, small_recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {"objective": "instruction"},
        {"objective": "head"},
        {"method": "dora", "lora": {"modules_to_save": ["lm_head"]}},
        {"objective": "head", "method": "full", "training": {"learning_rate": 2e-3}},
    ],
    ids=["instruction", "head", "dora and output head by bf16", "full head"],
)
def test_every_objective_learns_in_bfloat16(
    learners: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: dict[str, Any],
) -> None:
    # CPUs without it emulate it, which is refused only because it is slow.
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    values = small_recipe(
        learners["llama"],
        tmp_path / "data",
        variants={"majority": None, "tuned": {"kind": "tuned", **variant}},
    )
    trains_output_head = "lora" in variant
    if trains_output_head:
        # `training.bf16` decides where `dtype: auto` alone would be float32.
        monkeypatch.setattr(loading, "cpu_multiplies_bfloat16", lambda: False)
        values["training"]["bf16"] = True
        values["model"].pop("dtype")
    else:
        values["model"]["dtype"] = "bfloat16"
    if variant.get("method") == "full":
        values["lora"] = {}
    result = prooftune.run(values, tmp_path / "run")
    assert accuracy(result.scores, "tuned") > accuracy(result.scores, "majority") + 0.2
    if trains_output_head:
        # Trained in float32, scored and saved in the dtype of the model.
        weights = load_file(result.folder / "variants/tuned/trained/adapter_model.safetensors")
        dtypes = {weight.dtype for name, weight in weights.items() if "lm_head" in name}
        assert dtypes == {torch.bfloat16}
