"""Throughput of a server against `predict`, latencies, and predictions that differ under load.

    python benchmarks/serving.py BUNDLE TEXTS.txt [--rows 1024] [--clients 8] [--per-request 16]
    [--repeats 3]

First `predict` offline on all rows, as the reference for the server's predictions. Then a server in
its own process on this machine, under a bounded number of clients with one request at a time each.
Both run in turn, several times, so that a machine that slows down slows both; medians are reported.
Exits with status 1 if a prediction differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

import prooftune
from prooftune.bundle.classifier import Classifier

TOLERANCES = {"torch.float32": 1e-3}
"""By which a probability may differ between batches of other sizes, by the model's arithmetic."""
SIXTEEN_BITS = 0.1
"""The same in 16-bit arithmetic, which rounds each batch its own way."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path, help="one text a line; repeated to --rows")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--per-request", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="paired runs (default 3)")
    options = parser.parse_args()
    lines = [line for line in options.texts.read_text("utf-8").splitlines() if line.strip()]
    rows = list(itertools.islice(itertools.cycle(lines), options.rows))
    loaded = prooftune.load(options.bundle)
    if not isinstance(loaded, Classifier):
        raise SystemExit("this benchmark asks bundles that label texts")
    tolerance = TOLERANCES.get(str(loaded.model.dtype), SIXTEEN_BITS)
    loaded.predict(rows[:8], progress=False)
    pairs = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        expected = loaded.predict(rows, progress=False)
        offline = len(rows) / (time.perf_counter() - start)
        facts = _served(
            options.bundle, rows, expected, options.clients, options.per_request, tolerance
        )
        pairs.append(
            {
                "offline_rows_per_second": offline,
                **facts,
                "share_of_offline": facts["served_rows_per_second"] / offline,
            }
        )
        print(json.dumps(pairs[-1]), flush=True)
    medians = {name: round(statistics.median(pair[name] for pair in pairs), 4) for name in pairs[0]}
    worst = {
        name: max(pair[name] for pair in pairs)
        for name in ("wrong", "failed", "exit_status", "largest_difference")
    }
    print(
        json.dumps(
            {
                "rows": len(rows),
                "clients": options.clients,
                "rows_per_request": options.per_request,
                "tolerance": tolerance,
                "pairs": len(pairs),
                **medians,
                **worst,
            },
            indent=2,
        )
    )
    return 1 if worst["wrong"] or worst["failed"] else 0


def _served(
    bundle: Path, rows: list[str], expected: list[Any], clients: int, size: int, tolerance: float
) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "prooftune",
        "--quiet",
        "serve",
        f"golden={bundle}",
        "--port",
        "0",
    ]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            url = _started(Path(folder) / "log", process)
            starts = range(0, len(rows), size)
            with httpx2.Client(
                timeout=600, limits=httpx2.Limits(max_connections=clients)
            ) as client:

                def ask(start: int) -> tuple[float, int, int, float]:
                    begun = time.perf_counter()
                    reply = client.post(
                        f"{url}/v1/classify", json={"texts": rows[start : start + size]}
                    )
                    seconds = time.perf_counter() - begun
                    if reply.status_code != 200:
                        return seconds, 0, 1, 0.0
                    wrong, farthest = _compared(
                        reply.json()["results"], expected[start : start + size], tolerance
                    )
                    return seconds, wrong, 0, farthest

                ask(0)
                begun = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    responses = list(pool.map(ask, starts))
                seconds = time.perf_counter() - begun
        finally:
            process.terminate()
            code = process.wait(120)
    times = sorted(response[0] for response in responses)
    return {
        "served_rows_per_second": len(rows) / seconds,
        "p50_seconds": times[len(times) // 2],
        "p99_seconds": times[min(len(times) - 1, int(len(times) * 0.99))],
        "requests": len(times),
        "wrong": sum(response[1] for response in responses),
        "largest_difference": max(response[3] for response in responses),
        "failed": sum(response[2] for response in responses),
        "exit_status": code,
    }


def _compared(
    got: list[dict[str, Any]], expected: list[Any], tolerance: float
) -> tuple[int, float]:
    """Number of wrong rows and the largest probability difference.

    A row is wrong if a probability differs, or the label does and the reference is not a tie.
    """
    wrong, farthest = 0, 0.0
    for prediction, want in zip(got, expected, strict=True):
        top = sorted(want.probabilities.values(), reverse=True)[:2]
        tie = len(top) == 2 and top[0] - top[1] <= 2 * tolerance
        difference = max(
            abs(prediction["probabilities"][label] - p) for label, p in want.probabilities.items()
        )
        wrong += difference > tolerance or (prediction["label"] != want.label and not tie)
        farthest = max(farthest, difference)
    return wrong, farthest


def _started(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line)["event"] == "started":
                return str(json.loads(line)["url"])
        time.sleep(0.2)
    raise SystemExit(log.read_text())


if __name__ == "__main__":
    sys.exit(main())
