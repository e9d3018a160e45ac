"""Training steps beside busy processes, relative to the same steps alone.

    python benchmarks/busy.py [--processes 3] [--steps 25] [--before]

Trains the bundled model (LoRA on all linear layers) on batches of random tokens like those of
`step.py`, alone and beside processes that do nothing but use a core: processes that come later, or
with --before, that are there when Prooftune is imported. With as many threads as cores, c, beside n
such processes, a fair share of the cores takes max(1, (c + n) / c) times as long as alone. Prints
one line of JSON; run it several times, as a machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=3, help="busy processes")
    parser.add_argument("--steps", type=int, default=25, help="measured steps of either kind")
    parser.add_argument(
        "--before", action="store_true", help="start them before Prooftune is imported"
    )
    options = parser.parse_args()
    busy = _start(options.processes) if options.before else []
    # Prooftune chooses how threads wait when it is imported.
    from prooftune.engine.fused.patching import fused
    from prooftune.utils import malloc

    module, step = _training()
    try:
        with fused(module.model), malloc.retain_freed_memory(), module.fixed_structure():
            _times(step, 2)  # the first ones compile
            # Up to twenty steps pass until the threads are as many as before.
            if options.before:
                beside = _times(step, options.steps)
                _stop(busy)
                _times(step, 22)
                alone = _times(step, options.steps)
            else:
                alone = _times(step, options.steps)
                busy = _start(options.processes)
                beside = _times(step, options.steps)
    finally:
        _stop(busy)
    cores = len(os.sched_getaffinity(0))
    result = {
        "alone_seconds": statistics.median(alone),
        "beside_seconds": statistics.median(beside),
        "ratio_of_medians": statistics.median(beside) / statistics.median(alone),
        "ratio_of_means": statistics.fmean(beside) / statistics.fmean(alone),
        "fair_share": max(1.0, (cores + options.processes) / cores),
        "spins": os.environ.get("GOMP_SPINCOUNT"),
        "command": " ".join(["python benchmarks/busy.py", *sys.argv[1:]]),
    }
    print(json.dumps(result))


def _training() -> tuple[Any, Callable[[], None]]:
    """A module, and a step of its training as the Trainer takes it."""
    from step import adapted_model, step_of

    from prooftune.engine.threads import ThreadsByContention
    from prooftune.training.objective import TuningModule

    module = TuningModule(adapted_model()).train()
    compute, _ = step_of(module, argparse.Namespace(rows=16, prefix=45, length=70))
    threads = ThreadsByContention()

    def step() -> None:
        threads.begin_step()
        compute()
        threads.end_step()

    return module, step


def _times(step: Callable[[], None], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds


def _start(count: int) -> list[subprocess.Popen[bytes]]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5)  # until they run
    return busy


def _stop(busy: list[subprocess.Popen[bytes]]) -> None:
    for process in busy:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
