"""CUDA, else Apple's GPU, else the CPU; what an Apple GPU lacks is said and falls back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune import recipe
from prooftune.engine.attention import backends, flex, flex_trial, shared_prefix
from prooftune.models import encoder, environment, loading
from prooftune.preflight import precision
from prooftune.study import pipeline
from prooftune.training.arguments import argument_values, device_problems
from prooftune.training.memory import free_bytes


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.delenv("PROOFTUNE_MPS", raising=False)


@pytest.mark.parametrize(
    ("cuda", "mps", "variable", "expected"),
    [
        (True, False, None, "cuda"),
        (True, True, None, "cuda"),
        (False, True, None, "mps"),
        (False, True, "0", "cpu"),
        (False, False, None, "cpu"),
        (True, False, "0", "cuda"),
    ],
)
def test_models_run_on_the_gpu_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, variable: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if variable is None:
        monkeypatch.delenv("PROOFTUNE_MPS", raising=False)
    else:
        monkeypatch.setenv("PROOFTUNE_MPS", variable)
    assert loading.device() == torch.device(expected)


@pytest.mark.usefixtures("apple")
def test_an_apple_gpu_computes_in_float32_by_matmuls(tmp_path: Path) -> None:
    assert loading.compute_dtype("auto") == torch.float32
    assert backends.default_backend(torch.device("mps"), 64) == shared_prefix.NAME
    # Memory is not chosen there, and batches stay those of a CPU.
    assert free_bytes(torch.device("mps"), 1000) is None
    values = argument_values(
        {}, tmp_path, rows=8, validation=0, seed=0, dtype=torch.float32, patience=None
    )
    assert "use_cpu" not in values and not values["bf16"] and not values["fp16"]
    # No autocast at all: its float32 would only warn.
    with encoder.mixed_precision(torch.float32):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("apple")
def test_sixteen_bits_are_refused_on_an_apple_gpu() -> None:
    trained = {"kind": "tuned"}
    base = {"name": "x", "task": "classification", "variants": {"tuned": trained}}
    data = {"train": "a.csv", "text": "t", "label": "l"}

    def findings(**model: str) -> list[tuple[str, str]]:
        parsed = recipe.parse({**base, "data": data, "model": model})
        return [(f.severity, f.key_path) for f in precision.check_precision(parsed)]

    assert findings() == []
    assert findings(dtype="float16") == findings(dtype="bfloat16") == [("error", "model.dtype")]
    assert set(device_problems({"fp16": True})) == {"fp16"}
    assert set(device_problems({"bf16": True})) == {"bf16"}
    assert "PROOFTUNE_MPS=0" in device_problems({"use_cpu": True})["use_cpu"]


@pytest.mark.usefixtures("apple")
def test_flex_attention_on_an_apple_gpu_falls_back_with_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch's kernel for it has no gradients."""
    messages: list[str] = []
    monkeypatch.setattr(flex_trial, "notify", lambda message, style: messages.append(message))
    monkeypatch.setattr(flex_trial, "failed_trials", set())

    def without_gradients(*_: Any) -> torch.Tensor:
        raise NotImplementedError("FlexAttention does not support backward on MPS.")

    monkeypatch.setattr(flex, "flex_packed_attention", without_gradients)
    assert not flex_trial.flex_works.__wrapped__("cpu", flex_trial.FlexKernel(), "training")
    assert "backward on MPS" in messages[0] and "matmuls" in messages[0]


@pytest.mark.usefixtures("apple")
def test_a_run_says_what_an_apple_gpu_lacks(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = recipe.parse(
        {
            "name": "x",
            "task": "classification",
            "data": {"train": "a.csv", "text": "t", "label": "l"},
            "model": {"name": str(model_folders["llama"])},
            "variants": {"tuned": {"kind": "tuned"}},
        }
    )
    messages: list[str] = []
    monkeypatch.setattr(pipeline, "notify", lambda message, style: messages.append(message))
    pipeline._notify_compute_settings(parsed)
    assert "float32 on mps, shared-prefix attention" in messages[0]
    assert "without compiled kernels" in messages[1] and "PROOFTUNE_MPS=0" in messages[1]
    settings = environment.compute_settings(parsed)
    assert environment.compiled_kernels(settings, model_folders["llama"]) == "none"


def test_scores_of_encoders_become_float64_on_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Apple's GPUs have no float64."""
    wide: list[torch.dtype] = []

    class Logits(torch.Tensor):
        def double(self) -> Any:
            wide.append(self.dtype)
            raise AssertionError("float64 on the device")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"num_labels": 2, "problem_type": None})

        def forward(self, **_: Any) -> Any:
            logits = torch.zeros(1, 2).as_subclass(Logits)
            monkeypatch.setattr(Logits, "cpu", lambda self: torch.zeros(1, 2), raising=False)
            return type("Output", (), {"logits": logits})

    tokenizer: Any = type("T", (), {"collate": lambda self, rows: {}})()
    encoded: Any = [type("E", (), {"ids": [1], "second_start": 1})()]
    scores = encoder.label_log_probs(
        Model(), tokenizer, encoded, dtype=torch.float32, batch_tokens=8
    )
    assert scores.dtype == torch.float64 and not wide
