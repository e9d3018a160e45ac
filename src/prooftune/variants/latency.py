"""Latency of single rows: the time from one text to its prediction, one row at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from prooftune.types import Example
from prooftune.variant_details import Cost

ROWS, MAX_SECONDS = 100, 2.0
"""Rows that are timed at most, and the time after which no other one is begun."""
WARM_UP = 2


def measure_latency(
    predict: Callable[[Sequence[Example]], object], examples: Sequence[Example]
) -> Cost:
    """Time predictions of single rows.

    Args:
        predict: predicts a list of one row, without a progress bar.
        examples: rows from which those to time are taken, evenly spread.

    Returns:
        ``latency_p50``, ``latency_p99`` in seconds, and ``latency_rows``, how many were timed.
    """
    step = max(1, len(examples) // ROWS)
    rows = [examples[i] for i in range(0, len(examples), step)][:ROWS]
    for example in rows[:WARM_UP]:  # caches, kernels compiled for a new shape
        predict([example])
    seconds: list[float] = []
    for example in rows:
        started = time.perf_counter()
        predict([example])
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > MAX_SECONDS:
            break
    median, high = np.percentile(seconds, [50, 99])
    return {
        "latency_p50": float(median),
        "latency_p99": float(high),
        "latency_rows": len(seconds),
    }
