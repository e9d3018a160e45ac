"""Bulk prediction of a large file: is memory flat, and does a killed and resumed run give the same bytes?

    python benchmarks/bulk.py --rows 1000000 --out runs/bulk

makes a Parquet file of short texts and a bundle of a tiny random model, labels the file once without a break and once
killed with SIGKILL about half-way and started again, and compares the two outputs. Memory is the resident set of the
process, read five times a second. Results go to OUT/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
_TEXT = "goal scored match won stocks fell markets rose planet orbit science phone the cat sat on a mat it was very new"
WORDS = _TEXT.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/bulk"))
    parser.add_argument("--ray", action="store_true", help="also label a folder of Parquet files on a local Ray of 2 workers, one "
                        "of which is killed half-way, and compare the rows")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    file, bundle = _file(chosen.out / f"texts-{chosen.rows}.parquet", chosen.rows), _bundle(chosen.out)
    whole, broken = chosen.out / "whole.parquet", chosen.out / "broken.parquet"
    results: dict[str, Any] = {"rows": chosen.rows, "input_bytes": file.stat().st_size, "threads": os.cpu_count()}
    results["uninterrupted"] = _predict(bundle, file, whole)
    results["killed"] = _predict(bundle, file, broken, kill_after=chosen.rows // 2)
    results["resumed"] = _predict(bundle, file, broken)
    results["identical"] = _digest(whole) == _digest(broken)
    results["sha256"] = _digest(whole)
    if chosen.ray:
        results["ray"] = _on_ray(bundle, file, whole, chosen.out)
    (chosen.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    sys.exit(0 if results["identical"] and results.get("ray", {"same": True})["same"] else 1)


def _file(path: Path, rows: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        draw = random.Random(0)
        schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("price", pa.float64())])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, rows, 50_000):
                ids = range(start, min(rows, start + 50_000))
                texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) for _ in ids]
                writer.write_table(pa.table([list(ids), texts, [i / 7 for i in ids]], schema=schema))
    return path


def _bundle(folder: Path) -> Path:
    from bundle.conftest import make_bundle
    from conftest import make_model_folder

    if not (folder / "bundle").is_dir():
        make_bundle(folder, make_model_folder(folder / "model", "llama"))
    return folder / "bundle"


def _predict(bundle: Path, file: Path, out: Path, kill_after: int | None = None) -> dict[str, Any]:
    """Run the command in a process of its own, and note its memory second by second."""
    command = [sys.executable, "-m", "prooftune", "predict", str(bundle), str(file), "--out", str(out)]
    started, seen = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            seen.append((_rows_done(out), _resident(process.pid)))
            if kill_after is not None and seen[-1][0] >= kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        said = process.stdout.read() if process.stdout else ""
    # Loading the model and the libraries takes most of the memory; what the file's length adds shows after it.
    at_work = [memory for done, memory in seen if done > seen[0][0]]
    tenth = max(1, len(at_work) // 10)
    return {"seconds": round(time.monotonic() - started, 1), "exit_code": process.returncode, "said": said.splitlines(),
            "peak_mb": round(max(memory for _, memory in seen) / 1e6),
            "first_tenth_mb": round(max(at_work[:tenth], default=0) / 1e6),
            "last_tenth_mb": round(max(at_work[-tenth:], default=0) / 1e6),
            "rows_when_ended": max(done for done, _ in seen)}


def _on_ray(bundle: Path, file: Path, whole: Path, folder: Path) -> dict[str, Any]:
    """The same rows as a folder of files on two Ray workers, one of which is killed when half of the rows are written."""
    import shutil

    import psutil
    import pyarrow.parquet as pq

    parts, out = folder / "parts", folder / "ray"
    for old in (parts, out):
        shutil.rmtree(old, ignore_errors=True)
    parts.mkdir()
    table = pq.read_table(file)
    step = max(1, len(table) // 40)
    for number, start in enumerate(range(0, len(table), step)):
        pq.write_table(table.slice(start, step), parts / f"{number:04d}.parquet")
    command = [sys.executable, "-m", "prooftune", "predict", str(bundle), str(parts), "--out", str(out), "--engine", "ray",
               "--workers", "2"]
    started, killed, seen = time.monotonic(), None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.5)
            done = sum(pq.read_metadata(path).num_rows for path in out.glob("*.parquet")) if out.is_dir() else 0
            workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "Labeller" in _named(p)]
            seen.append(len(workers))
            if killed is None and done >= len(table) // 2 and workers:
                killed = {"rows_written": done, "workers": len(workers), "process": _named(workers[0])}
                workers[0].send_signal(signal.SIGKILL)
        said = process.stdout.read() if process.stdout else ""
    ours = pq.read_table(whole)
    found = pq.read_table(sorted(out.glob("*.parquet"))) if process.returncode == 0 else ours.slice(0, 0)
    shares = [name for name in ours.column_names if name.startswith("probability")]
    same_rows = all(found.column(name).equals(ours.column(name)) for name in ("id", "text", "price", "label", "truncated_tokens"))
    largest = max((max(abs(a - b) for a, b in zip(found.column(n).to_pylist(), ours.column(n).to_pylist(), strict=True))
                   for n in shares), default=0.0) if same_rows else None
    return {"seconds": round(time.monotonic() - started, 1), "exit_code": process.returncode, "said": said.splitlines()[-4:],
            "killed": killed, "most_workers": max(seen, default=0), "rows": len(found), "rows_in_order": same_rows,
            "largest_difference_of_probabilities": largest,
            "same": bool(same_rows and killed is not None and largest is not None and largest < 1e-4)}


def _named(process: Any) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _rows_done(out: Path) -> int:
    try:
        lines = (out.parent / f"{out.name}.parts" / "journal.jsonl").read_text().splitlines()[1:]
        return sum(json.loads(line)["rows"] for line in lines)
    except (OSError, ValueError):
        return 0


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _digest(path: Path) -> str:
    from prooftune.files import sha256

    return sha256(path)


if __name__ == "__main__":
    main()
