"""Rows per second of a server against `predict` in the same run, latencies, and answers that differ under load.

    python benchmarks/serving.py BUNDLE TEXTS.txt [--rows 2000] [--clients 8] [--per-request 16]

Offline first: `predict` on all rows, which is also what the server's answers are compared with. Then a server in a process of
its own on this machine, asked by a bounded number of clients, each with one request at a time. Ends with status 1 where an
answer differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

import prooftune
from prooftune.bundle.load import Classifier

TOLERANCES = {"torch.float32": 1e-3}
"""By which a probability may differ between batches of other sizes, by the model's arithmetic."""
SIXTEEN_BITS = 0.1
"""The same in 16-bit arithmetic, which rounds each batch its own way."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("texts", type=Path, help="one text a line; repeated to --rows")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--per-request", type=int, default=16)
    options = parser.parse_args()
    lines = [line for line in options.texts.read_text("utf-8").splitlines() if line.strip()]
    rows = list(itertools.islice(itertools.cycle(lines), options.rows))
    expected, offline, tolerance = _offline(options.bundle, rows)
    facts = _served(options.bundle, rows, expected, options.clients, options.per_request, tolerance)
    facts = {"tolerance": tolerance, "rows": len(rows), "clients": options.clients, "rows_per_request": options.per_request,
             "offline_rows_per_second": round(offline, 2), **facts}
    facts["share_of_offline"] = round(facts["served_rows_per_second"] / offline, 3)
    print(json.dumps(facts, indent=2))
    return 1 if facts["wrong"] or facts["failed"] else 0


def _offline(bundle: Path, rows: list[str]) -> tuple[list[Any], float, float]:
    """The golden answers, rows per second, and by how much a probability may differ."""
    loaded = prooftune.load(bundle)
    if not isinstance(loaded, Classifier):
        raise SystemExit("this benchmark asks bundles that label texts")
    loaded.predict(rows[:8], progress=False)
    start = time.perf_counter()
    answers = loaded.predict(rows, progress=False)
    speed = len(rows) / (time.perf_counter() - start)
    return answers, speed, TOLERANCES.get(str(loaded.model.dtype), SIXTEEN_BITS)


def _served(
    bundle: Path, rows: list[str], expected: list[Any], clients: int, size: int, tolerance: float
) -> dict[str, Any]:
    command = [sys.executable, "-m", "prooftune", "--quiet", "serve", f"golden={bundle}", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            url = _started(Path(folder) / "log", process)
            starts = range(0, len(rows), size)
            with httpx2.Client(timeout=600, limits=httpx2.Limits(max_connections=clients)) as client:
                def ask(start: int) -> tuple[float, int, int, float]:
                    begun = time.perf_counter()
                    reply = client.post(f"{url}/v1/classify", json={"texts": rows[start:start + size]})
                    seconds = time.perf_counter() - begun
                    if reply.status_code != 200:
                        return seconds, 0, 1, 0.0
                    wrong, farthest = _compared(reply.json()["results"], expected[start:start + size], tolerance)
                    return seconds, wrong, 0, farthest

                ask(0)
                begun = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    found = list(pool.map(ask, starts))
                seconds = time.perf_counter() - begun
        finally:
            process.terminate()
            code = process.wait(120)
    times = sorted(one[0] for one in found)
    return {"served_rows_per_second": round(len(rows) / seconds, 2), "p50_seconds": round(times[len(times) // 2], 4),
            "p99_seconds": round(times[min(len(times) - 1, int(len(times) * 0.99))], 4), "requests": len(times),
            "wrong": sum(one[1] for one in found), "largest_difference": max(one[3] for one in found),
            "failed": sum(one[2] for one in found), "exit_status": code}


def _compared(got: list[dict[str, Any]], expected: list[Any], tolerance: float) -> tuple[int, float]:
    """Rows whose label differs, though the golden answer is no tie, or whose probability does; the largest difference of one."""
    wrong, farthest = 0, 0.0
    for one, want in zip(got, expected, strict=True):
        top = sorted(want.probabilities.values(), reverse=True)[:2]
        tie = len(top) == 2 and top[0] - top[1] <= 2 * tolerance
        far = max(abs(one["probabilities"][label] - p) for label, p in want.probabilities.items())
        wrong += far > tolerance or (one["label"] != want.label and not tie)
        farthest = max(farthest, far)
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
