"""Are the default learning rate and number of epochs good ones? A grid on public data.

    python benchmarks/defaults.py --data FOLDER [--objective head] [--sets ag-news sst2 swahili]
        [--rates 1e-3 3e-3] [--epochs 2 4] [--train 400] [--test 1000] [--out FOLDER]

FOLDER contains the public data sets (ag_news/, sst2/, financial_phrasebank/, masakhanews_swa/). For
each set one study trains SmolLM2-135M with every combination on the same rows, and compares each
with the first, on test rows with the paired test. An interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from search import SETS, data_section

import prooftune
from prooftune.evaluation.score_types import Scores
from prooftune.report.step_effect import step_effect
from prooftune.utils.files import read_json


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["ag-news", "sst2", "swahili"])
    parser.add_argument("--objective", choices=("head", "instruction"), default="head")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3])
    parser.add_argument("--epochs", nargs="+", type=float, default=[2.0, 4.0])
    parser.add_argument("--train", type=int, default=400, help="training rows")
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    options = parser.parse_args(arguments)
    for name in options.sets:
        folder = options.out / f"{name}-{options.objective}"
        prooftune.run(study(name, options), out=folder)
        print("\n".join(table(name, read_json(folder / "scores.json"))), flush=True)


def study(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe of one set: a variant for each combination."""
    variants: dict[str, Any] = {"majority": None}
    for epochs, rate in product(options.epochs, options.rates):
        variants[f"rate-{rate:g}-epochs-{epochs:g}"] = {
            "kind": "tuned",
            "objective": options.objective,
            "training": {"learning_rate": rate, "num_train_epochs": epochs},
        }
    return {
        "name": f"defaults-{name}",
        **data_section(name, options),
        "model": "smollm2-135m-instruct",
        "variants": variants,
        "bundle": {"variant": list(variants)[1]},
    }


def table(name: str, scores: Scores) -> list[str]:
    """Accuracy and log-loss of each combination, and its difference from the first one."""
    variants = list(scores["variants"])[1:]
    lines = [
        f"\n## {name}: {scores['n']} test rows",
        "",
        "| learning rate x epochs | test accuracy | log-loss | accuracy - that of the first |",
        "|---|---:|---:|---:|",
    ]
    for variant in variants:
        metrics = scores["variants"][variant]["metrics"]
        accuracy = metrics["accuracy"]
        _, difference = (
            ("", "") if variant == variants[0] else step_effect(scores, variant, variants[0])
        )
        lines.append(
            f"| {variant} | {accuracy['value']:.1%} ({accuracy['low']:.1%} to "
            f"{accuracy['high']:.1%}) | {metrics['log_loss']['value']:.3f} "
            f"| {difference or ''} |"
        )
    return lines


if __name__ == "__main__":
    main()
