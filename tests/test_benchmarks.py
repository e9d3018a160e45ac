"""The scripts in benchmarks/ can be started, and count what they say they count."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prooftune.engine.attention import packed
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.kernels import attention, int8_linear, lora_linear
from prooftune.engine.kernels.lora_linear import LoraLinears

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py"))


@pytest.mark.slow
def test_every_script_can_be_imported() -> None:
    """Libraries for comparison are imported lazily, so that --help needs none of them."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(SCRIPTS)}"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(SCRIPTS) > 10


def test_operations_are_those_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    contest = importlib.import_module("contest")
    layer = torch.nn.Linear(4, 3)
    x = torch.randn(5, 4, requires_grad=True)

    def learned() -> None:
        layer(x).sum().backward()

    def asked() -> None:
        with torch.inference_mode():
            layer(x[None])

    def attended() -> None:
        q, k = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 9, 8)
        torch.nn.functional.scaled_dot_product_attention(q, k, k)

    def added() -> None:
        torch.zeros(2, 5, 3).baddbmm_(torch.ones(2, 5, 4), torch.ones(2, 4, 3))

    def on_a_line() -> None:
        q, k = (
            torch.randn(1, 2, 6, 32).bfloat16().requires_grad_(),
            torch.randn(1, 1, 6, 32).bfloat16(),
        )
        torch.autograd.grad(
            packed.packed_attention(
                q, k, k, PackedLayout(2, [3, 1], q.device), 1.0, None, None
            ).sum(),
            q,
        )

    def in_bytes() -> None:
        x, low, up = (
            torch.ones(5, 64).bfloat16(),
            torch.ones(5, 4).bfloat16(),
            torch.ones(32, 4).bfloat16(),
        )
        int8_linear.QuantizedFrozenLinear([torch.ones(32, 64).bfloat16()], x).forward(
            x, [low], [up]
        )

    def adapted(wide: bool) -> None:
        x, weights = (
            torch.ones(200, 64).bfloat16(),
            [torch.ones(32, 64).bfloat16(), torch.ones(96, 64).bfloat16()],
        )
        layers = LoraLinears(
            x, weights, [torch.ones(8, 64)] * 2, [torch.ones(32, 8), torch.ones(96, 8)], 1.0
        )
        low, _ = layers.forward(wide)
        layers.backward(low, [torch.ones(200, 32).bfloat16(), torch.ones(200, 96).bfloat16()], wide)

    assert contest.operations(asked) == 2 * 5 * 4 * 3
    assert (
        contest.operations(learned) == 3 * 2 * 5 * 4 * 3
    )  # forward, and the gradients of input and weight
    assert contest.operations(attended) == 2 * 2 * 2 * 7 * 9 * 8  # scores and sums, for two heads
    assert contest.operations(added) == 2 * 2 * 5 * 4 * 3
    narrow = (
        2 * 200 * 8 * (2 * 64 + 2 * (32 + 96) + 2 * 64)
    )  # low; its gradient and that of B; that of A
    lora_linear.is_available(torch.bfloat16)  # which tries products too, once
    assert contest.operations(lambda: adapted(wide=False)) == narrow
    assert (
        contest.operations(lambda: adapted(wide=True))
        == narrow + 2 * 200 * (32 + 96) * (2 * 64 + 8) + 2 * 200 * 64 * 16
    )
    if int8_linear.is_available():
        assert contest.operations(in_bytes) == 2 * 5 * 32 * (64 + 4)
    if attention.is_available(32, torch.bfloat16):
        # The prefix with itself, rows with it and with themselves, half of each square; forward and
        # five gradients, two heads.
        assert (
            contest.operations(on_a_line)
            == 7 * 2 * (2 * 2 / 2 + 4 * 2 + (3 * 3 + 1 * 1) / 2) * 2 * 32
        )


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny models on a CPU: every backend has the same first losses, and figures in every field."""
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = importlib.import_module("gpu")
    for model in ("llama-2-7b", "gemma-2-2b"):
        by_backend = [
            list(gpu.prooftune_training(attention)(model, True))
            for attention in ("auto", "flex", "sdpa")
        ]
        for shape, *figures in zip(gpu.TINY_SHAPES, *by_backend, strict=True):
            losses = [run["first_loss"] for run in figures]
            assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
            for run in figures:
                assert run["shape"] == [shape.tokens, shape.shared, shape.batch]
                assert run["tokens_per_second"] == pytest.approx(
                    shape.batch * shape.tokens / run["seconds_per_step"]
                )
    kinds = {run["kind"]: run["rows"] for run in gpu.inference("llama-3.2-1b", True)}
    assert kinds == {"scorings": 20, "generations": 4}

    monkeypatch.setattr(
        gpu, "_in_process", lambda model, name, *_: gpu.CONTESTANTS[name](model, True)
    )
    monkeypatch.setattr(gpu, "_installed", lambda library: False)
    words = ["gpu.py", "--out", str(tmp_path), "--dry-run", "--models", "llama-3.2-1b",
             "--only", "prooftune", "trl-liger"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    gpu.main()
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert lines[0]["preflight"]["backward"] and lines[0]["preflight"]["flex_works"]
    contestants = [line["contestant"] for line in lines[1:-1]]
    assert contestants == ["prooftune", "prooftune", "trl-liger"] and "seconds" in lines[-1]
    assert lines[-2]["skipped"] == "not installed: trl, liger_kernel"
    assert "| llama-3.2-1b | prooftune | 20 tokens, 10 shared |" in capsys.readouterr().out


def test_the_page_says_what_would_be_measured_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu, page = importlib.import_module("gpu"), importlib.import_module("gpu_page")
    assert page.gpu_section(tmp_path) is None
    training: dict[str, Any] = {
        "model": "llama-2-7b",
        "contestant": "prooftune",
        "shape": [100, 50, 64],
        "tokens_per_second": 4321.0,
        "rows_per_second": 43.2,
        "mfu": 0.41,
        "peak_allocated": 20_000_000_000,
        "first_loss": 10.0,
    }
    lines: list[dict[str, Any]] = [
        {"preflight": {"device": "cpu", "torch": "2", "backward": True, "flex_works": True}},
        training,
        {**training, "contestant": "prooftune-sdpa", "first_loss": 10.01},
        {"model": "llama-2-7b", "contestant": "vllm", "skipped": "not installed: vllm"},
        {"finished": "2026-11-29", "seconds": 95, "load": 0.5},
    ]

    def write(folder: str, content: list[dict[str, Any]]) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in content)
        (tmp_path / folder / "gpu.jsonl").write_text(text)

    def rows(content: list[str]) -> list[list[str]]:
        cells = [line.strip("| ").split(" | ") for line in content if line.startswith("| ")]
        return [row for row in cells if row[0] in gpu.MODELS]

    write("gpu-dry-run", lines)
    dry = page.gpu_section(tmp_path)
    table = rows(dry)
    assert len(table) == len(gpu.MODELS) * len(gpu.CONTESTANTS)
    # No figure of a dry run is taken for one of a GPU.
    assert {cell for row in table for cell in row[2:]} <= {"", "not measured"}
    text = "\n".join(dry)
    assert "2026-11-29, 95 s" in text and "| first losses | agree |" in text
    assert (
        "| left out | vllm: not installed: vllm |" in text
        and "| stopped or failed | none |" in text
    )
    write("gpu-dry-run", [*lines[:2], {**lines[2], "first_loss": 11.0}, lines[4]])
    assert "| first losses | differ |" in page.gpu_section(tmp_path)
    write("gpu", lines)
    row = next(r for r in rows(page.gpu_section(tmp_path)) if r[:2] == ["llama-2-7b", "prooftune"])
    assert row[2:6] == ["4,321", "41%", "20.0", "not measured"]
