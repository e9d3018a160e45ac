"""What a piece of work cost: seconds and peak memory."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prooftune.utils.malloc import trim


@dataclass(slots=True)
class Cost:
    """Filled in when the measured block ends.

    Attributes:
        seconds: wall-clock time.
        peak_memory_bytes: most memory in use at any moment of the block: of the GPU if there is
            one, else of this process.
        memory_before_bytes: what was in use when it began; outside of Linux, the most that there
            has been.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    memory_before_bytes: int = 0


@contextlib.contextmanager
def measure_cost() -> Iterator[Cost]:
    cost = Cost()
    _reset_peak()
    cost.memory_before_bytes = _in_use()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.peak_memory_bytes = _peak()


def on_gpu() -> bool:
    """Whether it is a GPU's memory that counts."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_available())


def _reset_peak() -> None:
    gc.collect()
    # What earlier work has freed but the C library still holds would count as this work's.
    trim()
    if on_gpu():
        import torch

        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(
        OSError
    ):  # Linux: writing 5 resets the high-water mark; elsewhere it stays the process's own
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if on_gpu():
        import torch

        return int(torch.cuda.max_memory_allocated())
    return _of_process("VmHWM") or _own_peak()


def _in_use() -> int:
    if on_gpu():
        import torch

        return int(torch.cuda.memory_allocated())
    return _of_process("VmRSS") or _own_peak()


def _of_process(name: str) -> int:
    """Bytes, by Linux' account of this process; 0 elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _own_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> int | None:
    """Bytes that can be had now: of the GPU if there is one, else of this machine; None where it
    does not tell."""
    if on_gpu():
        import torch

        return int(torch.cuda.mem_get_info()[0])
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
