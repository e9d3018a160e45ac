"""Bulk prediction on a large file: memory over time, and resuming after a kill.

    python benchmarks/bulk.py --rows 1000000 --out runs/bulk

Makes a Parquet file of short texts and a bundle of a tiny random model. Predicts the file once
without interruption, and once killed with SIGKILL about half-way and resumed, and compares the
bytes of the two outputs. Memory is the resident set of the process, sampled five times a second.
Results go to OUT/results.json.
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
_TEXT = (
    "goal scored match won stocks fell markets rose planet orbit science phone the cat sat on "
    "a mat it was very new"
)
WORDS = _TEXT.split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs/bulk"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    file, bundle = (
        _file(chosen.out / f"texts-{chosen.rows}.parquet", chosen.rows),
        _bundle(chosen.out),
    )
    whole, broken = chosen.out / "whole.parquet", chosen.out / "broken.parquet"
    results: dict[str, Any] = {
        "rows": chosen.rows,
        "input_bytes": file.stat().st_size,
        "threads": os.cpu_count(),
    }
    results["uninterrupted"] = _predict(bundle, file, whole)
    results["killed"] = _predict(bundle, file, broken, kill_after=chosen.rows // 2)
    results["resumed"] = _predict(bundle, file, broken)
    results["identical"] = _digest(whole) == _digest(broken)
    results["sha256"] = _digest(whole)
    (chosen.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    sys.exit(0 if results["identical"] else 1)


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
                writer.write_table(
                    pa.table([list(ids), texts, [i / 7 for i in ids]], schema=schema)
                )
    return path


def _bundle(folder: Path) -> Path:
    from bundle.conftest import make_bundle
    from conftest import make_model_folder

    if not (folder / "bundle").is_dir():
        make_bundle(folder, make_model_folder(folder / "model", "llama"))
    return folder / "bundle"


def _predict(bundle: Path, file: Path, out: Path, kill_after: int | None = None) -> dict[str, Any]:
    """Run the command in its own process and record its memory over time."""
    command = [
        sys.executable,
        "-m",
        "prooftune",
        "predict",
        str(bundle),
        str(file),
        "--out",
        str(out),
    ]
    started, seen = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            seen.append((_rows_done(out), resident(process.pid)))
            if kill_after is not None and seen[-1][0] >= kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        said = process.stdout.read() if process.stdout else ""
    # Loading the model and the libraries takes most of the memory; what the file's length adds
    # shows after it.
    at_work = [memory for done, memory in seen if done > seen[0][0]]
    tenth = max(1, len(at_work) // 10)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "exit_code": process.returncode,
        "said": said.splitlines(),
        "peak_mb": round(max(memory for _, memory in seen) / 1e6),
        "first_tenth_mb": round(max(at_work[:tenth], default=0) / 1e6),
        "last_tenth_mb": round(max(at_work[-tenth:], default=0) / 1e6),
        "rows_when_ended": max(done for done, _ in seen),
    }


def _rows_done(out: Path) -> int:
    try:
        lines = (out.parent / f"{out.name}.parts" / "journal.jsonl").read_text().splitlines()[1:]
        return sum(json.loads(line)["rows"] for line in lines)
    except (OSError, ValueError):
        return 0


def resident(pid: int) -> int:
    """Resident set size of a process in bytes; 0 after it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _digest(path: Path) -> str:
    from prooftune.utils.files import sha256

    return sha256(path)


if __name__ == "__main__":
    main()
