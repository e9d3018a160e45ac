"""Environment variables that libraries read once, when they are loaded."""

from __future__ import annotations

import os
import sys

DEFAULTS = {
    # OpenMP: threads that wait for each other sleep. By default they spin for milliseconds, which
    # gains a few percent on an idle machine, and beside other busy processes takes the cores from
    # the very threads that are waited for: a step then takes many times its fair share.
    "OMP_WAIT_POLICY": "PASSIVE",
    # PyTorch: operators that Apple's GPUs lack run on the CPU.
    **({"PYTORCH_ENABLE_MPS_FALLBACK": "1"} if sys.platform == "darwin" else {}),
}
"""Variable -> value, unless it is set."""

OTHER_WAIT_SETTINGS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables of GNU's and Intel's OpenMP that say the same as `OMP_WAIT_POLICY`, and win."""


def set_library_defaults() -> None:
    """Set the variables that are not set. Must run before PyTorch is imported."""
    for name, value in DEFAULTS.items():
        if name == "OMP_WAIT_POLICY" and any(map(os.environ.get, OTHER_WAIT_SETTINGS)):
            continue
        os.environ.setdefault(name, value)
