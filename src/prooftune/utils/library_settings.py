"""Environment variables that libraries read once, when they are loaded."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

DEFAULTS = {
    # OpenMP: threads that wait for each other sleep. By default they spin for milliseconds, which
    # beside other busy processes takes the cores from the very threads that are waited for: a step
    # then takes many times its fair share.
    "OMP_WAIT_POLICY": "PASSIVE",
    # PyTorch: operators that Apple's GPUs lack run on the CPU.
    **({"PYTORCH_ENABLE_MPS_FALLBACK": "1"} if sys.platform == "darwin" else {}),
}
"""Variable -> value, unless it is set."""

OTHER_WAIT_SETTINGS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables of GNU's and Intel's OpenMP that say the same as `OMP_WAIT_POLICY`, and win."""

SPINS_WHEN_ALONE = "20000"
"""`GOMP_SPINCOUNT` on an idle machine: some 400 microseconds, as threads wait for each other
hundreds of times in a training step, mostly for less than that. Should others get busy
later, LoRA training takes more threads than cores (`engine.threads`), and OpenMP's then sleep at
once; scoring and generation go on spinning, and are slower than with threads that sleep."""

_SYSTEM_STATISTICS = Path("/proc/stat")
_SAMPLES, _SAMPLE_SECONDS = 5, 0.001


def set_library_defaults() -> None:
    """Set the variables that are not set. Must run before PyTorch is imported."""
    waiting = any(map(os.environ.get, ("OMP_WAIT_POLICY", *OTHER_WAIT_SETTINGS)))
    for name, value in DEFAULTS.items():
        if not (name == "OMP_WAIT_POLICY" and waiting):
            os.environ.setdefault(name, value)
    if not waiting and machine_is_idle():
        os.environ["GOMP_SPINCOUNT"] = SPINS_WHEN_ALONE


def machine_is_idle(statistics: Path = _SYSTEM_STATISTICS) -> bool:
    """Whether this thread is the only one that runs. False where the system does not tell.

    Args:
        statistics: Linux's /proc/stat, whose ``procs_running`` counts the threads that run or wait
            for a core.
    """
    for sample in range(_SAMPLES):
        if sample:
            time.sleep(_SAMPLE_SECONDS)
        try:
            lines = statistics.read_text().splitlines()
        except OSError:
            return False
        if "procs_running 1" in lines:
            return True
    return False
