"""Copies to a GPU go through pinned memory, so that the host does not wait for queued work."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import prooftune
from prooftune.engine.uploads import upload, upload_numbers

SOURCE = Path(prooftune.__file__).parent
WAITING = {"tensor", "as_tensor", "asarray"}
"""Functions of torch that copy from ordinary memory where a device is given."""
ONCE = {"check_output_head", "_score_mod", "_random_heads", "load_trainable"}
"""Functions that run once per model or checkpoint."""


class HostTensor:
    """Records how it is copied."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pin_memory(self) -> HostTensor:
        self.calls.append("pin_memory")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> HostTensor:
        self.calls.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", ["pin_memory", ("cuda", True)]),
        ("mps", [("mps", False)]),
        ("cpu", [("cpu", False)]),
    ],
)
def test_uploads_are_queued_on_nvidia_gpus(device: str, expected: list[Any]) -> None:
    host = HostTensor()
    tensor: Any = host
    assert upload(tensor, torch.device(device)) is tensor
    assert host.calls == expected


def test_numbers_keep_their_shape_and_type() -> None:
    numbers = upload_numbers([[1, 2], [3, 4]], torch.device("cpu"))
    assert numbers.dtype == torch.long and numbers.tolist() == [[1, 2], [3, 4]]


def waiting_copies(file: Path) -> list[str]:
    """Calls in a file that copy from ordinary memory to a device."""
    found = []
    for function in ast.walk(ast.parse(file.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            keywords = {keyword.arg for keyword in call.keywords}
            makes = call.func.attr in WAITING and "device" in keywords
            moves = call.func.attr == "to" and any("device" in ast.unparse(a) for a in call.args)
            if (makes or moves) and "non_blocking" not in keywords:
                found.append(f"{file.name}: {function.name}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("package", ["engine", "training"])
def test_nothing_else_copies_to_the_device(package: str) -> None:
    found = [
        copy
        for file in sorted((SOURCE / package).rglob("*.py"))
        if file.name != "uploads.py"
        for copy in waiting_copies(file)
        if not any(name in copy for name in ONCE)
    ]
    assert found == []


def test_such_copies_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "def f(x, device):\n"
        "    torch.tensor([1], device=device)\n"
        "    x.to(device)\n"
        "    x.to(device, non_blocking=True)\n"
        "    torch.zeros(3, device=device)\n"
    )
    assert len(waiting_copies(file)) == 2
