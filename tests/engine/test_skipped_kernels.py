"""A skipped kernel test is reported, and fails the run where it should have run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prooftune.engine.kernels.build import cpu_flags
from skipped_kernels import must_run

ZEN4 = {"avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "sse2"}
REQUIRED = {"PROOFTUNE_REQUIRE_KERNELS": "1"}


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (ZEN4, REQUIRED, True),
        (ZEN4, {}, False),
        (ZEN4 - {"avx512_bf16"}, REQUIRED, False),
        (ZEN4 | {"amx_bf16"}, REQUIRED, False),
        (set(), REQUIRED, False),
    ],
)
def test_kernels_must_run_where_the_cpu_has_the_features(
    flags: set[str], environment: dict[str, str], expected: bool
) -> None:
    assert must_run(flags, environment) is expected


@pytest.mark.slow
@pytest.mark.parametrize("required", ["0", "1"])
def test_a_run_without_kernels_says_so_and_fails_if_they_are_required(required: str) -> None:
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(tests / "test_lora_linear.py")],
        env={**os.environ, "PROOFTUNE_COMPILE": "0", "PROOFTUNE_REQUIRE_KERNELS": required},
        cwd=tests.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "KERNEL TESTS WERE SKIPPED" in done.stdout, done.stdout + done.stderr
    fails = must_run(cpu_flags(), {"PROOFTUNE_REQUIRE_KERNELS": required})
    assert ("this run fails" in done.stdout) is fails
    assert done.returncode == int(fails)
