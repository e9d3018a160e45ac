"""Whole studies in 16-bit arithmetic, which is the default wherever the processor has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune.preflight import precision
from study.small import accuracy, small_recipe


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {"objective": "instruction"},
        {"objective": "head"},
        {"objective": "instruction", "method": "dora"},
        {"objective": "head", "method": "full", "training": {"learning_rate": 2e-3}},
    ],
    ids=["instruction", "head", "dora", "full head"],
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
    values["model"]["dtype"] = "bfloat16"
    if variant.get("method") == "full":
        values["lora"] = {}
    result = prooftune.run(values, tmp_path / "run")
    assert accuracy(result.scores, "tuned") > accuracy(result.scores, "majority") + 0.2
