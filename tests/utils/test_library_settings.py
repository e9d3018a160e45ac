"""Variables that libraries read when they are loaded: set before, and never over the user's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prooftune.utils import library_settings

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
    assert settings()["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("idle", [True, False])
def test_they_spin_for_a_moment_where_nothing_else_runs(
    idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(library_settings, "machine_is_idle", lambda: idle)
    library_settings.set_library_defaults()
    assert environment.get("GOMP_SPINCOUNT") == ("20000" if idle else None)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(("running", "idle"), [("1", True), ("2", False), ("12", False)])
def test_an_idle_machine_runs_one_thread(running: str, idle: bool, tmp_path: Path) -> None:
    statistics = tmp_path / "stat"
    statistics.write_text(f"cpu  4705 356\nctxt 1990473\nprocs_running {running}\nsoftirq 7\n")
    assert library_settings.machine_is_idle(statistics) is idle
    assert not library_settings.machine_is_idle(tmp_path / "missing")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat")
def test_a_busy_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.1)
        idle = library_settings.machine_is_idle()
        busy.kill()
    assert not idle


def test_operators_that_apple_gpus_lack_run_on_the_cpu() -> None:
    assert settings("darwin")["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


@pytest.mark.parametrize(
    "own",
    [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "1"}],
)
def test_the_users_own_setting_wins(own: dict[str, str]) -> None:
    assert settings(**own) == own
