"""Pytest hooks: skipped kernel tests are reported loudly, and can fail the run.

Kernel tests are skipped without a supported CPU or a compiler. A CI machine that silently loses its
compiler would then test nothing, so with ``PROOFTUNE_REQUIRE_KERNELS=1`` (set by `.ci/run`) the run
fails if they are skipped on a CPU that supports the kernels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from typing import Any

import pytest

_skipped: dict[str, str] = {}
"""Test -> reason, of tests marked `kernel`."""


def must_run(flags: Set[str], environment: Mapping[str, str]) -> bool:
    """Whether a skipped kernel test is a failure.

    Args:
        flags: features of the CPU.
        environment: environment variables.
    """
    from prooftune.engine.kernels.build import EXCLUDED_CPU_FLAGS, REQUIRED_CPU_FLAGS

    capable = flags >= REQUIRED_CPU_FLAGS and not flags & EXCLUDED_CPU_FLAGS
    return capable and environment.get("PROOFTUNE_REQUIRE_KERNELS") == "1"


def _fails_here() -> bool:
    from prooftune.engine.kernels.build import cpu_flags  # imports torch

    return must_run(cpu_flags(), os.environ)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "kernel" in report.keywords:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _skipped[report.nodeid] = str(reason).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _skipped:
        return
    failing = _fails_here()
    title = f"{len(_skipped)} KERNEL TESTS WERE SKIPPED: THE C CODE IS NOT TESTED"
    terminalreporter.section(title, sep="!", red=failing, yellow=not failing, bold=True)
    for reason in sorted(set(_skipped.values())):
        count = list(_skipped.values()).count(reason)
        terminalreporter.write_line(f"{count} x {reason}")
    if failing:
        terminalreporter.write_line("This CPU has what they need, so this run fails.", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    # Workers of pytest-xdist see only their part; the controller sees all reports.
    in_worker = hasattr(session.config, "workerinput")
    if _skipped and not in_worker and _fails_here():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
