"""How much of a training step is spent in its matmuls.

    python benchmarks/step.py [--rows 16] [--prefix 45] [--length 70] [--repeats 11] [--int8]

Times a step (forward and backward pass of the bundled model with LoRA on all linear layers,
bfloat16) over rows of random tokens behind a common prefix, then replays the matmuls of that step
alone, in their order, with the same arrays. Steps and replays are timed alternately, as pairs,
because a machine's speed drifts. The matmuls of compiled attention count as operations, but are not
replayed. Prints the share of the step that matmuls explain (median of the pairs), the seconds of
the other kernels, and the throughput relative to that of a 1024 x 1024 matmul on this machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from contest import MEASURED, machine, product_rate
from matmuls import MatmulRecorder

from prooftune import recipe
from prooftune.engine.fused.patching import fused
from prooftune.engine.kernels import build
from prooftune.engine.kernels.int8_linear import use_int8_linear
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.models import adapters, loading
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, make_collator
from prooftune.utils import malloc


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=45)
    parser.add_argument(
        "--length", type=int, default=70, help="mean tokens of a row after the prefix"
    )
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="int8 matmuls with frozen weights (model.int8_training)",
    )
    options = parser.parse_args()
    model = adapted_model()
    module = TuningModule(model).train()
    step, tokens = step_of(module, options)
    in_int8 = use_int8_linear() if options.int8 else nullcontext()
    # As a study trains.
    with fused(model), malloc.retain_freed_memory(), module.fixed_structure(), in_int8:
        step()
        with MatmulRecorder(record=True) as recorder:
            step()
        recorder.replay()
        pairs = [(_timed(step), _timed(recorder.replay)) for _ in range(options.repeats)]
        kernels = _kernel_seconds(step, options.repeats)
    seconds, alone = (statistics.median(one) for one in zip(*pairs, strict=True))
    share, work = (
        statistics.median(matmuls / whole for whole, matmuls in pairs),
        recorder.operations,
    )
    rate = product_rate()
    result = {
        "rows": options.rows,
        "tokens": tokens,
        "step_seconds": seconds,
        "products_alone_seconds": alone,
        "share_of_step": share,
        "product_rate": work / seconds,
        "rate_1024": rate,
        "share_of_rate_1024": work / seconds / rate,
        "other_kernels_seconds": kernels,
        "python_and_operators_seconds": seconds - alone - sum(kernels.values()),
        "machine": machine(),
        "command": " ".join(["python benchmarks/step.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
    }
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / f"step{'-int8' if options.int8 else ''}.json").write_text(
        json.dumps(result, indent=1) + "\n", "utf-8"
    )
    print(json.dumps(result, indent=1))


def adapted_model() -> Any:
    base = loading.load_model(
        loading.resolve(loading.DEFAULT_MODEL), recipe.Model(dtype="bfloat16")
    )
    model = adapters.make_trainable(base, recipe.Variant(kind="tuned"), {})
    disable_lora_input_upcast(model)
    return model


def step_of(module: TuningModule, options: argparse.Namespace) -> tuple[Callable[[], Any], int]:
    draw = random.Random(0)
    prefix = [draw.randrange(1000, 40000) for _ in range(options.prefix)]
    lengths = [
        max(5, int(draw.gauss(options.length, options.length / 5))) for _ in range(options.rows)
    ]
    rows = [
        TrainingRow(
            [draw.randrange(1000, 40000) for _ in range(n)],
            [n - 2, n - 1],
            [draw.randrange(40000), 2],
        )
        for n in lengths
    ]
    batch = make_collator(prefix, module.packed)(rows)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            out = module(**batch)
        (out["loss_sum"] / out["count"]).backward()
        module.zero_grad()

    return step, options.prefix + sum(lengths)


def _kernel_seconds(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of a step in each compiled kernel but the matmuls, the longest first."""
    original, steps = build.call, []

    def timed(library: Any, name: str, *arguments: Any) -> None:
        started = time.perf_counter()
        original(library, name, *arguments)
        steps[-1][name] += time.perf_counter() - started

    build.call = timed
    for _ in range(repeats):
        steps.append(Counter[str]())
        step()
    build.call = original
    medians = {
        name: statistics.median(kernels[name] for kernels in steps)
        for name in steps[0]
        if not name.startswith(("lora", "int8"))
    }
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
