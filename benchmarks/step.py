"""How much of a training step is its own matrix products.

    python benchmarks/step.py [--rows 16] [--prefix 45] [--length 70] [--repeats 5]

Times a step (forward and backward pass of the embedded model with LoRA on all linear layers, bfloat16) over rows of random tokens
behind a common prefix, then every matrix product that the profiler saw in it, alone, at the same shapes. Prints the share of the
step that they explain, what took the rest, and the share of the rate that this machine reaches in a product of 1024 x 1024.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from contest import MEASURED, machine, product_rate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from prooftune import recipe
from prooftune.engine.arithmetic import leave_inputs
from prooftune.engine.layers import fused
from prooftune.models import adapters, loading
from prooftune.training.objective import Row, TuningModule, make_collator

PRODUCTS: dict[str, Callable[..., Tensor]] = {"aten::mm": torch.mm, "aten::bmm": torch.bmm}
"""Operators whose tensor arguments are the two factors."""
ADDED: dict[str, Callable[..., Tensor]] = {"aten::addmm": torch.addmm, "aten::addmm_": torch.addmm, "aten::baddbmm": torch.baddbmm}
"""Those that add a third tensor, their first argument."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=45)
    parser.add_argument("--length", type=int, default=70, help="mean tokens of a row after the prefix")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = _adapted()
    step, tokens = _step(model, options)
    with fused(model):
        step()
        seconds = statistics.median(_timed(step) for _ in range(options.repeats))
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            step()
    alone = work = 0.0
    rest: dict[str, float] = {}
    for event in seen.key_averages(group_by_input_shape=True):
        if event.key in PRODUCTS or event.key in ADDED:
            once, operations = _product(event.key, event.input_shapes)
            alone += once * event.count
            work += operations * event.count
        elif event.self_cpu_time_total:
            rest[event.key] = rest.get(event.key, 0.0) + event.self_cpu_time_total / 1e6
    rate = product_rate()
    most = dict(sorted(rest.items(), key=lambda item: -item[1])[:12])
    result = {"rows": options.rows, "tokens": tokens, "step_seconds": seconds, "products_alone_seconds": alone,
              "share_of_step": alone / seconds, "product_rate": work / seconds, "rate_1024": rate,
              "share_of_rate_1024": work / seconds / rate, "other_operators_seconds": most, "machine": machine(),
              "command": " ".join(["python benchmarks/step.py", *sys.argv[1:]]), "date": datetime.date.today().isoformat()}
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / "step.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


def _adapted() -> Any:
    base = loading.load_model(loading.resolve(loading.EMBEDDED), recipe.Model(dtype="bfloat16"))
    model = adapters.attach(base, recipe.Variant(kind="tuned"), {})
    leave_inputs(model)
    return model


def _step(model: Any, options: argparse.Namespace) -> tuple[Callable[[], Any], int]:
    module, draw = TuningModule(model).train(), random.Random(0)
    prefix = [draw.randrange(1000, 40000) for _ in range(options.prefix)]
    lengths = [max(5, int(draw.gauss(options.length, options.length / 5))) for _ in range(options.rows)]
    rows = [Row([draw.randrange(1000, 40000) for _ in range(n)], [n - 2, n - 1], [draw.randrange(40000), 2]) for n in lengths]
    batch = make_collator(prefix, module.lines)(rows)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            out = module(**batch)
        (out["loss_sum"] / out["count"]).backward()
        module.zero_grad()

    return step, options.prefix + sum(lengths)


def _product(name: str, shapes: list[Any]) -> tuple[float, float]:
    """Seconds of a matrix product of these shapes in bfloat16, the best of three, and its floating-point operations."""
    factors = [shape for shape in shapes if len(shape) >= 2]
    tensors = [torch.randn(*shape).bfloat16() for shape in factors]
    if name in ADDED:
        operator, tensors = ADDED[name], [torch.randn(*shapes[0]).bfloat16(), *tensors[-2:]]
    else:
        operator, tensors = PRODUCTS[name], tensors[:2]  # an array to write to, where there is one, comes last
    left, right = tensors[-2], tensors[-1]
    operator(*tensors)
    seconds = min(_timed(lambda: operator(*tensors)) for _ in range(3))
    return seconds, 2 * left.numel() * right.shape[-1]


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
