"""What the benchmarks against other tools share: every contestant in a process of its own, one
after another, several times.

A benchmark is a script with a function for every contestant, each of which does the work and
returns its figures. Run without ``--one``, it runs them all in turn, so that a machine that slows
down slows all of them, and writes medians and ratios.
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
from prooftune.tasks.prompts import PromptEncoder
from prooftune.utils.profiling import Cost

Run = Callable[[argparse.Namespace], dict[str, Any]]
OURS = "prooftune"
MEASURED = Path(__file__).parent / "measured"
LIBRARIES = ("torch", "transformers", "peft", "trl", "lm-eval")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--repeats", type=int, default=3, help="paired runs (default 3)")
    found.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first pair, each has the next; for adapters (default 0)",
    )
    found.add_argument("--only", nargs="*", help="contestants; all if none is named")
    found.add_argument(
        "--name",
        help="behind that of the file of results, so that it stands beside those of other runs",
    )
    found.add_argument("--one", help=argparse.SUPPRESS)
    return found


def contest(
    script: str,
    options: argparse.Namespace,
    runs: Mapping[str, Run],
    facts: Mapping[str, Any],
    name: str = "",
) -> None:
    """Run the contestants and write what was measured.

    Args:
        script: the benchmark's file, by which its results are named.
        options: what `parser` parsed.
        runs: the contestants; `OURS` is compared with all others, and so is what is called
            ``prooftune-…``, it with another setting. Each gives ``seconds``, ``rows``,
            ``operations`` if they are counted, and what else it measures.
        facts: what a reader must know of the work, ``dtype`` among it where that is not bfloat16.
        name: of the file of results; that of the script if empty.
    """
    if options.one:
        print(json.dumps(runs[options.one](options)))
        return
    found: dict[str, list[dict[str, Any]]] = {one: [] for one in options.only or runs}
    busy = os.getloadavg()[0]
    for repeat in range(options.repeats):
        for one, several in found.items():
            words = [sys.executable, *sys.argv, "--one", one, "--seed", str(options.seed + repeat)]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            several.append(json.loads(done.stdout.splitlines()[-1]))
            several[-1]["product_rate"] = product_rate(facts.get("dtype", "bfloat16"))
            print(f"{repeat + 1}/{options.repeats} {one}: {_line(several[-1])}", flush=True)
    _note_shares(found)
    result = {
        "command": f"python benchmarks/{Path(script).name} {' '.join(_shown(sys.argv[1:]))}",
        "facts": dict(facts),
        "runs": found,
        "medians": {one: _medians(several) for one, several in found.items()},
        "ratios": _ratios(found, OURS),
        "ratios_with_settings": {
            one: _ratios(found, one) for one in found if one != OURS and _is_ours(one)
        },
        "load_before": busy,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    MEASURED.mkdir(exist_ok=True)
    whole = "-".join(filter(None, [name or Path(script).stem, options.name]))
    (MEASURED / f"{whole}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({"medians": result["medians"], "ratios": result["ratios"]}, indent=1))


def _note_shares(found: Mapping[str, list[dict[str, Any]]]) -> None:
    """Note what share each one's operations are of those that products would do in the time, at the
    best rate seen meanwhile."""
    best = max(one["product_rate"] for several in found.values() for one in several)
    for one in (one for several in found.values() for one in several if "operations" in one):
        one["share_of_rate"] = one["operations"] / one["seconds"] / best


def _shown(words: Sequence[str]) -> list[str]:
    """A command's words without what is this machine's own."""
    return [
        "FOLDER" if before == "--data" else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def asked(
    encoder: PromptEncoder,
    rows: Sequence[Sequence[int]],
    predictions: Sequence[Any],
    spent: Cost,
    operations: float | None = None,
) -> dict[str, Any]:
    """The figures of a contestant that was asked prompts: rows behind the encoder's prefix, whose
    tokens count in each; operations where they were counted."""
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
    """What the figures were measured on, and with."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if _installed(name)}
    return {
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "prooftune": _commit(),
        **versions,
    }


def _commit() -> str:
    """Of the program that is measured."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return found or "unknown"


def product_rate(dtype: str = "bfloat16", size: int = 1024) -> float:
    """Operations per second (2 for a multiplication and an addition) of a square product, the best
    of ten."""
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
    """Whether a contestant is Prooftune, as it is or with another setting, which is named behind."""
    return name == OURS or name.startswith(f"{OURS}-")


def _ratios(found: Mapping[str, list[dict[str, Any]]], ours: str) -> dict[str, dict[str, float]]:
    """Of one of ours to each other tool, medians of the pairs: how many times as fast, and the
    share of the memory."""
    ratios = {}
    for name, several in found.items():
        if _is_ours(name) or ours not in found:
            continue
        pairs = list(zip(found[ours], several, strict=True))
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
    medians = {key: statistics.median(one[key] for one in several) for key in numbers}
    return {
        **medians,
        "rows_per_second": statistics.median(one["rows"] / one["seconds"] for one in several),
    }


def _line(facts: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in facts.items() if isinstance(v, int | float)}
    return ", ".join(
        f"{k} {v:.4g}"
        for k, v in {**shown, "rows_per_second": facts["rows"] / facts["seconds"]}.items()
    )
