"""Variables that libraries read when they are loaded: set before, and never over the user's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "PYTORCH_ENABLE_MPS_FALLBACK")


def settings(platform: str = "linux", **own: str) -> dict[str, str]:
    """The variables in a process that has imported prooftune."""
    code = (
        f"import sys; sys.platform = {platform!r}; import prooftune, os;"
        "assert 'torch' not in sys.modules;"
        f"print(*(f'{{n}}={{os.environ[n]}}' for n in {NAMES} if n in os.environ))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(pair.split("=") for pair in done.stdout.split())


def test_waiting_threads_sleep() -> None:
    assert settings() == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_operators_that_apple_gpus_lack_run_on_the_cpu() -> None:
    assert settings("darwin")["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


@pytest.mark.parametrize(
    "own",
    [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "1"}],
)
def test_the_users_own_setting_wins(own: dict[str, str]) -> None:
    assert settings(**own) == own
