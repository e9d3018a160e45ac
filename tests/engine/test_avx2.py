"""CPUs without AVX512: every backend gives the same there, without compiled kernels.

A process that PyTorch is told to compute with AVX2 in takes the place of such a CPU.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

AVX2 = {"PROOFTUNE_COMPILE": "0", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
TESTS = (
    "losses_and_gradients or bfloat16 or label_scores or classes_are_scored",
    "backends.py",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no AVX2 here"),
]


def in_avx2(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **AVX2},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_such_a_process_has_neither_avx512_nor_compiled_kernels() -> None:
    code = (
        "import torch; from prooftune.engine.kernels import build;"
        "print(torch.backends.cpu.get_cpu_capability(), build.why_unsupported())"
    )
    assert in_avx2("-c", code).split(maxsplit=1) == ["AVX2", "PROOFTUNE_COMPILE is 0\n"]


def test_packed_padded_and_single_rows_agree() -> None:
    words, file = TESTS
    out = in_avx2("-m", "pytest", "-q", "-p", "no:cacheprovider",
                  f"tests/engine/test_{file}", "-k", words)  # fmt: skip
    passed = int(out.rsplit(" passed", 1)[0].split()[-1])
    # 5 families by up to 4 backends: losses, bfloat16, label scores three times, classes.
    assert passed >= 80
