"""HTTP server for bundles: Prooftune's API, OpenAI's chat completions, and a playground page."""

from __future__ import annotations

from importlib.util import find_spec

from prooftune.errors import UsageError

_REQUIRED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
"""Module -> package that the modules here import."""


def check_installed() -> None:
    """Check that the packages of the extra ``serve`` are installed.

    Importing any module of this package does so, so that none ends in a ModuleNotFoundError.

    Raises:
        UsageError: one of them is missing.
    """
    missing = [package for module, package in _REQUIRED.items() if find_spec(module) is None]
    if missing:
        raise UsageError(f"serving needs {', '.join(missing)}: pip install 'prooftune[serve]'")


check_installed()
