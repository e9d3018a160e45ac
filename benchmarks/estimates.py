"""Estimates of `prooftune check` against the actual time and memory of a run.

    python benchmarks/estimates.py RECIPE ... [--set KEY=VALUE ...] [--out FOLDER]

Every recipe (a file, or the name of a shipped one) is checked and run in separate processes. Time
covers training and the test rows, memory is the peak of the process during both. The runs stay in
FOLDER if given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import MEASURED, machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    overrides = [word for override in options.overrides for word in ("--set", override)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        variants = [
            override
            for recipe in options.recipes
            for override in _compared(recipe, overrides, folder / Path(recipe).stem)
        ]
    command = f"python benchmarks/estimates.py {' '.join([*options.recipes, *overrides])}"
    result = {
        "command": command,
        "variants": variants,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / "estimates.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(variants, indent=1))


def _compared(recipe: str, overrides: list[str], folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "prooftune", "--quiet"]
    check = [*command, "check", recipe, "--thorough", *overrides]
    subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*command, "run", recipe, "--out", str(folder), *overrides],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return rows_of_report(folder)


def rows_of_report(folder: Path) -> list[dict[str, Any]]:
    """Estimate and actual cost of every variant of a run folder."""
    report = json.loads((folder / "report.json").read_text("utf-8"))
    rows = []
    for name, estimate in report["estimates"].items():
        took = report["variants"][name]["cost"]
        rows.append(
            {
                "study": report["name"],
                "variant": name,
                "seconds": estimate["seconds"],
                "took_seconds": took["train_seconds"] + took["score_seconds"],
                "memory_bytes": estimate["memory_bytes"],
                "peak_bytes": took["peak_memory_bytes"],
            }
        )
    return rows


if __name__ == "__main__":
    main()
