"""Peak memory of many batches, extrapolated from the measured memory of a few."""

from __future__ import annotations

from dataclasses import dataclass

from prooftune.utils import profiling

SCORING_GROWTH, TRAINING_GROWTH, _RETAINED_SHARE = 0.65, 0.2, 0.4
"""Heap fragmentation on CPUs, measured: growth of the memory from a few batches to many while
scoring and while training (which reuses its buffers from step to step), and the share of the peak
that the allocator retains after a variant."""


@dataclass(frozen=True, slots=True)
class MeasuredRate:
    """Measured time and memory of many batches.

    Attributes:
        seconds: per computed token.
        initial_bytes: memory in use before.
        additional_bytes: additional memory at the peak.
        is_extrapolated: less than whole batches were measured.
    """

    seconds: float
    initial_bytes: int
    additional_bytes: float
    is_extrapolated: bool = False


class MemoryModel:
    """Memory of a process that runs one variant after another."""

    def __init__(self) -> None:
        self._initial_bytes: int | None = None
        self._peak_bytes = 0.0

    def peak(self, *rates: MeasuredRate) -> float:
        """Peak bytes of the next variant."""
        if self._initial_bytes is None:
            self._initial_bytes = min(rate.initial_bytes for rate in rates)
        floor = self._initial_bytes + (
            0.0 if profiling.on_gpu() else _RETAINED_SHARE * self._peak_bytes
        )
        self._peak_bytes = max(self._peak_bytes, *(rate.additional_bytes for rate in rates))
        return max(max(rate.initial_bytes, floor) + rate.additional_bytes for rate in rates)


def additional_memory(before: int, peak: int, batches: float, growth: float) -> float:
    """Memory that `batches` batches add, extrapolated from the peak of a few."""
    # PyTorch's GPU allocator reuses its blocks, so batches add no more there.
    growth = 0.0 if profiling.on_gpu() else growth * (1 - 1 / max(1.0, batches))
    return (peak - before) * (1 + growth)
