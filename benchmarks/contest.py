"""Shared code of the benchmarks against other tools; every contestant has its own process.

A benchmark is a script with a function per contestant, which does the work and returns its figures.
Without ``--one``, the script runs all contestants in turn, several times, so that a machine that
slows down slows all of them, and writes medians and ratios.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matmuls

from prooftune.models.environment import cpu_name
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.utils import library_settings
from prooftune.utils.profiling import Cost

Run = Callable[[argparse.Namespace], dict[str, Any]]
OURS = "prooftune"
MEASURED = Path(__file__).parent / "measured"
LIBGOMP_SPIN_COUNT = "300000"
"""GNU OpenMP's default (libgomp manual, GOMP_SPINCOUNT), with which other tools run."""
LIBRARIES = ("torch", "transformers", "peft", "trl", "lm-eval")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of all benchmarks."""
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--repeats", type=int, default=3, help="paired runs (default 3)")
    arguments.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first pair, each has the next; for adapters (default 0)",
    )
    arguments.add_argument("--only", nargs="*", help="contestants; default: all")
    arguments.add_argument(
        "--name",
        help="suffix of the name of the results file, to keep the results of other runs",
    )
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    return arguments


def contest(
    script: str,
    options: argparse.Namespace,
    runs: Mapping[str, Run],
    facts: Mapping[str, Any],
    name: str = "",
) -> None:
    """Run the contestants and write the measurements.

    Args:
        script: the benchmark's file, which names the results.
        options: parsed by `parser`.
        runs: the contestants. `OURS` and its other settings, named ``prooftune-…``, are compared
            with all others. Each returns ``seconds``, ``rows``, ``operations`` if counted, and
            other measurements.
        facts: facts about the work to report, with ``dtype`` if it is not bfloat16.
        name: name of the results file. Default: that of the script.
    """
    if options.one:
        print(json.dumps(runs[options.one](options)))
        return
    results: dict[str, list[dict[str, Any]]] = {
        contestant: [] for contestant in options.only or runs
    }
    load = os.getloadavg()[0]
    for repeat in range(options.repeats):
        for contestant, several in results.items():
            words = [
                sys.executable,
                *sys.argv,
                "--one",
                contestant,
                "--seed",
                str(options.seed + repeat),
            ]
            done = subprocess.run(
                words, stdout=subprocess.PIPE, text=True, check=True, env=_environment(contestant)
            )
            several.append(json.loads(done.stdout.splitlines()[-1]))
            several[-1]["product_rate"] = product_rate(facts.get("dtype", "bfloat16"))
            print(f"{repeat + 1}/{options.repeats} {contestant}: {_line(several[-1])}", flush=True)
    _note_shares(results)
    result = {
        "command": f"python benchmarks/{Path(script).name} {' '.join(_shown(sys.argv[1:]))}",
        "facts": dict(facts),
        "runs": results,
        "medians": {contestant: _medians(several) for contestant, several in results.items()},
        "ratios": _ratios(results, OURS),
        "ratios_with_settings": {
            contestant: _ratios(results, contestant)
            for contestant in results
            if contestant != OURS and _is_ours(contestant)
        },
        "load_before": load,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    MEASURED.mkdir(exist_ok=True)
    whole = "-".join(filter(None, [name or Path(script).stem, options.name]))
    (MEASURED / f"{whole}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({"medians": result["medians"], "ratios": result["ratios"]}, indent=1))


def _environment(contestant: str) -> dict[str, str]:
    """Environment of a contestant's process: OpenMP's defaults for other tools.

    All scripts import Prooftune, whose settings for waiting threads would apply to them as well.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", *library_settings.OTHER_WAIT_SETTINGS)
    }
    return own if _is_ours(contestant) else {**own, "GOMP_SPINCOUNT": LIBGOMP_SPIN_COUNT}


def _note_shares(results: Mapping[str, list[dict[str, Any]]]) -> None:
    """Add each contestant's share of the best matmul rate seen during the runs."""
    best = max(run["product_rate"] for several in results.values() for run in several)
    for run in (run for several in results.values() for run in several if "operations" in run):
        run["share_of_rate"] = run["operations"] / run["seconds"] / best


def _shown(words: Sequence[str]) -> list[str]:
    """A command line without machine-specific paths."""
    return [
        "FOLDER" if before in ("--data", "--model") else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def inference_figures(
    encoder: PromptEncoder,
    rows: Sequence[Sequence[int]],
    predictions: Sequence[Any],
    spent: Cost,
    operations: float | None = None,
) -> dict[str, Any]:
    """The figures of an inference contestant.

    Prefix tokens count for every row; operations are included if counted.
    """
    tokens = sum(len(encoder.prefix) + len(row) for row in rows)
    return {
        "rows": len(rows),
        "seconds": spent.seconds,
        "tokens_per_second": tokens / spent.seconds,
        "peak_memory_bytes": spent.peak_memory_bytes,
        "predictions": list(predictions),
        **({} if operations is None else {"operations": operations}),
    }


def machine() -> dict[str, Any]:
    """The machine and package versions of a measurement."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if _installed(name)}
    return {
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "prooftune": _commit(),
        **versions,
    }


def _commit() -> str:
    """The commit of Prooftune."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return commit or "unknown"


def product_rate(dtype: str = "bfloat16", size: int = 1024) -> float:
    """Operations per second of a square matmul (2 per multiply-add), best of ten."""
    import torch

    a, b = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)


def operations(work: Callable[[], object]) -> float:
    """Operations of the matmuls and attention of some work, which is run once more to count them.

    A multiply-add counts as 2. Fused attention kernels count as if every query attended to every
    key that the kernel is given.
    """
    with matmuls.MatmulRecorder() as recorder:
        work()
    return float(recorder.operations)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _is_ours(name: str) -> bool:
    """Whether a contestant is Prooftune, with default or other settings."""
    return name == OURS or name.startswith(f"{OURS}-")


def _ratios(results: Mapping[str, list[dict[str, Any]]], ours: str) -> dict[str, dict[str, float]]:
    """Speed-up and memory ratio of one of ours over each other tool, medians of the pairs."""
    ratios = {}
    for name, several in results.items():
        if _is_ours(name) or ours not in results:
            continue
        pairs = list(zip(results[ours], several, strict=True))
        ratios[name] = {
            "speed": statistics.median(
                (a["rows"] / a["seconds"]) / (b["rows"] / b["seconds"]) for a, b in pairs
            ),
            "memory": statistics.median(
                a["peak_memory_bytes"] / b["peak_memory_bytes"] for a, b in pairs
            ),
        }
        if "predictions" in several[0]:
            ratios[name]["same_predictions"] = statistics.median(
                _same(a["predictions"], b["predictions"]) for a, b in pairs
            )
    return ratios


def _same(ours: list[Any], theirs: list[Any]) -> float:
    return sum(bool(a == b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _medians(several: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [key for key, value in several[0].items() if isinstance(value, int | float)]
    medians = {key: statistics.median(run[key] for run in several) for key in numbers}
    return {
        **medians,
        "rows_per_second": statistics.median(run["rows"] / run["seconds"] for run in several),
    }


def _line(facts: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in facts.items() if isinstance(v, int | float)}
    return ", ".join(
        f"{k} {v:.4g}"
        for k, v in {**shown, "rows_per_second": facts["rows"] / facts["seconds"]}.items()
    )
