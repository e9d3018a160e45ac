"""Latency of single rows: the time from one text to its prediction, one row at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from prooftune.types import Example
from prooftune.variant_details import Cost
from prooftune.variants.context import VariantContext

ROWS, MAX_SECONDS = 100, 2.0
"""Rows that are timed at most, and the time after which no other one is begun."""
WARM_UP = 2
ROWS_FOR_TAIL = 20
"""Rows from which a 99th percentile is given: of a few it would be the slowest one."""


def measure_latency(
    context: VariantContext, predict: Callable[[Sequence[Example]], object]
) -> Cost:
    """Time predictions of single test rows, evenly spread, for two seconds or one row after a
    warm-up.

    Args:
        context: its test rows are predicted; nothing is timed without ``with_latency``.
        predict: predicts a list of one row, without a progress bar.

    Returns:
        ``latency_p50`` and, from `ROWS_FOR_TAIL` rows on, ``latency_p99`` in seconds; and
        ``latency_rows``, how many were timed; empty if nothing was.
    """
    examples = context.study.test
    if not (context.with_latency and examples):
        return {}
    # Spread over the test set, whose rows may be sorted by length.
    step = max(1, len(examples) // ROWS)
    rows = [examples[i] for i in range(0, len(examples), step)][:ROWS]
    warm_up_end = time.perf_counter() + MAX_SECONDS
    for example in rows[:WARM_UP]:  # caches, kernels compiled for a new shape
        predict([example])
        if time.perf_counter() > warm_up_end:
            break
    end = time.perf_counter() + MAX_SECONDS
    seconds: list[float] = []
    # One row at least, however slow the model is.
    while len(seconds) < len(rows) and (not seconds or time.perf_counter() < end):
        started = time.perf_counter()
        predict([rows[len(seconds)]])
        seconds.append(time.perf_counter() - started)
    latency: Cost = {"latency_p50": float(np.median(seconds)), "latency_rows": len(seconds)}
    if len(seconds) >= ROWS_FOR_TAIL:
        latency["latency_p99"] = float(np.percentile(seconds, 99))
    return latency
