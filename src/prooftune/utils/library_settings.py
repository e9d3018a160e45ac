"""Environment variables that libraries read once, when they are loaded."""

from __future__ import annotations

import os
import sys

DEFAULTS = {"PYTORCH_ENABLE_MPS_FALLBACK": "1"} if sys.platform == "darwin" else {}
"""PyTorch: operators that Apple's GPUs lack run on the CPU."""


def set_library_defaults() -> None:
    """Set the variables that are not set. Must run before PyTorch is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
