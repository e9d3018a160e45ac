"""Time and peak memory of a block of code."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prooftune.utils.malloc import trim


@dataclass(slots=True)
class Cost:
    """Measured when the block ends.

    Attributes:
        seconds: wall-clock time.
        peak_memory_bytes: peak memory within the block: of the GPU if there is one, else of this
            process.
        memory_before_bytes: memory in use at the start; outside Linux, the process's peak so far.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    memory_before_bytes: int = 0


@contextlib.contextmanager
def measure_cost() -> Iterator[Cost]:
    """Measure the time and peak memory of the block."""
    cost = Cost()
    _reset_peak()
    cost.memory_before_bytes = _in_use()
    started = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - started
        cost.peak_memory_bytes = _peak()


def load_average() -> float | None:
    """Mean number of runnable processes of the machine in the last minute; None where unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows, and systems that do not say
        return None


def on_gpu() -> bool:
    """Whether memory figures are the GPU's."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_available())


def _reset_peak() -> None:
    # Cycles that were not collected yet would count towards this block as well.
    gc.collect()
    # Memory that was freed but is still held by the allocator would count towards this block.
    trim()
    if on_gpu():
        import torch

        torch.cuda.reset_peak_memory_stats()
    # Linux: writing 5 resets the peak; elsewhere it remains the peak of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    if on_gpu():
        import torch

        return int(torch.cuda.max_memory_allocated())
    return _proc_status("VmHWM") or _rusage_peak()


def _in_use() -> int:
    if on_gpu():
        import torch

        return int(torch.cuda.memory_allocated())
    return _proc_status("VmRSS") or _rusage_peak()


def _proc_status(name: str) -> int:
    """A field of /proc/self/status in bytes; 0 outside Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _rusage_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # `ru_maxrss` is in bytes on macOS and in kilobytes on Linux.
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> int | None:
    """Free memory in bytes: of the GPU if there is one, else of this machine; None if unknown.

    What PyTorch's allocator holds of the GPU without using it counts as free.
    """
    if on_gpu():
        import torch

        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0]) + int(cached)
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
