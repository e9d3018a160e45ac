"""Memory of a study with very many training rows, compared with one of few.

    python benchmarks/many_rows.py [--rows 1000 1000000] [--one-file] --out runs/many

Makes CSV files of texts of 4 to 20 words and recipes that tune the embedded model for two steps,
and runs each until training is done. Memory is the resident set of the process, sampled three times
a second: its peak until the data are read and audited, until the rows are tokenised and the model
is loaded, and until two batches are trained. With ``--one-file``, a hundredth of the rows each is
split off for validation and test; otherwise these have files of 50 rows. Results go to
OUT/results.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import yaml
from bulk import resident

WORDS = [f"w{i}" for i in range(5_000)]
STAGES = {"data:": "data", "tuned: training": "tokens", "tuned: test rows": "training"}
"""What the command says when something is over, and what."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--one-file", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.out) as made:
        _study(
            Path(made), 200, False
        )  # the first run unpacks the model, which takes additional memory
    results = [_study(chosen.out / f"{rows}", rows, chosen.one_file) for rows in chosen.rows]
    (chosen.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results, indent=2))


def _study(folder: Path, rows: int, one_file: bool) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": rows} if one_file else {"train": rows, "validation": 50, "test": 50}
    files = {
        split: _file(folder / f"{split}.csv", count, seed)
        for seed, (split, count) in enumerate(sizes.items())
    }
    data: dict[str, Any] = {split: str(path.resolve()) for split, path in files.items()}
    if one_file:
        data["splitting"] = {"validation": 0.01, "test": 0.01}
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"name": "many", "data": data, "training": {"max_steps": 2}, "variants": {"tuned": {}}}
        ),
        "utf-8",
    )
    return {
        "rows": rows,
        "file_mb": round(files["train"].stat().st_size / 1e6, 1),
        "stages": _stages(recipe, folder),
    }


def _file(path: Path, rows: int, seed: int) -> Path:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            label = draw.choice("abcd")
            writer.writerow(
                [f"{' '.join(draw.choices(WORDS, k=draw.randint(4, 20)))} {label * 3}", label]
            )
    return path


def _stages(recipe: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Stage -> seconds until its end, and peak memory until then."""
    command = [sys.executable, "-m", "prooftune", "run", str(recipe), "--out", str(folder / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "PROOFTUNE_QUIET"}
    started, most = time.monotonic(), [0]
    stages: dict[str, dict[str, float]] = {}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:

        def listen(stream: TextIO) -> None:
            for line in stream:
                stage = next(
                    (name for words, name in STAGES.items() if line.strip().startswith(words)), None
                )
                if stage is not None and stage not in stages:
                    stages[stage] = {
                        "seconds": round(time.monotonic() - started),
                        "peak_mb": round(most[0] / 1e6),
                    }
                if stage == "training":
                    process.terminate()

        assert process.stderr is not None
        listener = threading.Thread(target=listen, args=(process.stderr,))
        listener.start()
        while process.poll() is None:
            most[0] = max(most[0], resident(process.pid))
            time.sleep(0.3)
        listener.join()
    return stages


if __name__ == "__main__":
    main()
