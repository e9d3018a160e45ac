"""How often the intervals of learning curves contain the truth, where errors fall by a power law;
and whether a curve over few rows of AG News predicts the figure of many.

    python benchmarks/learning_curve.py
    python benchmarks/learning_curve.py --data FOLDER [--variants tuned] [--rows 2000]
        [--measured 6000] [--test 2000] [--out FOLDER]

Simulated: variants of known error are drawn at 250, 500, 1,000 and 2,000 training rows. All predict
the same test rows and are mostly wrong on the same ones. Each number of rows has its own noise of a
training subset. The gain from 2,000 to 4,000 rows, and the accuracy of one more training on 4,000
rows, are compared with the truth.

Measured (`--data`, the folder of the public data sets, with ag_news/): one study has the curve over
1/8, 1/4, 1/2 and all of `--rows` training rows and predicts the metric at `--measured` rows;
another one trains on those. Both have the same test rows. An interrupted script goes on where it
was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import prooftune
from prooftune.evaluation.learning_curve import Points, fit_curve
from prooftune.evaluation.score_types import Figure, Scores
from prooftune.utils.files import read_json

SIZES = np.array([250.0, 500.0, 1000.0, 2000.0])
TARGET, LEVEL, STUDIES, RESAMPLES, SHARED = 4000, 0.95, 200, 300, 0.75


def coverage(
    asymptote: float, at_250: float, exponent: float, n: int, spread: float
) -> tuple[float, float, float, float]:
    """Coverage of the gain's interval and its mean width, and the same of the accuracy's."""

    def error(rows: float) -> float:
        return float(asymptote + (at_250 - asymptote) * (rows / 250) ** -exponent)

    covered, width = np.zeros(2), np.zeros(2)
    for seed in range(STUDIES):
        draw = np.random.default_rng(seed)
        shared, right = draw.random(n), []
        for rows in SIZES:
            own = np.where(draw.random(n) < SHARED, shared, draw.random(n))
            right.append(own > error(rows) + draw.normal(0, spread))
        table = np.stack(right, axis=1).astype(float)
        weights = draw.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
        samples = weights @ table
        curve = fit_curve(Points(SIZES, table.mean(axis=0), samples, spread, np.ones(4)), seed)
        _, low, high = curve.gain(TARGET, LEVEL)
        truth = [error(SIZES[-1]) - error(TARGET), 1 - error(TARGET) + draw.normal(0, spread)]
        ends = np.array([(low, high), curve.interval(TARGET, LEVEL)])
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        width += ends[:, 1] - ends[:, 0]
    covered, width = covered / STUDIES, 100 * width / STUDIES
    return covered[0], width[0], covered[1], width[1]


def study(options: argparse.Namespace, rows: int, curve: bool) -> dict[str, Any]:
    """The recipe of AG News with this many training rows."""
    folder = options.data.resolve() / "ag_news" / "alps_tsv"
    section = {
        "shares": [0.125, 0.25, 0.5, 1.0],
        "variants": options.variants,
        "extrapolate": [options.measured],
    }
    return {
        "name": "ag-news-curve" if curve else "ag-news-measured",
        "data": {
            "train": str(folder / "dev.tsv"),
            "test": str(folder / "test.tsv"),
            "header": False,
            "columns": ["text", "label"],
            "limit": {"train": rows, "validation": options.validation, "test": options.test},
        },
        "audit": {"leak": "drop", "label_errors": 0},
        "model": options.model,
        "prompt": {"max_length": 160},
        "training": {"num_train_epochs": options.epochs, "per_device_train_batch_size": 16},
        **({"learning_curve": section} if curve else {}),
        "variants": {"majority": None, **dict.fromkeys(options.variants)},
    }


def measured(options: argparse.Namespace) -> None:
    """Run both studies, and print the prediction beside the measurement."""
    scores: list[Scores] = []
    for rows, curve in ((options.rows, True), (options.measured, False)):
        out = options.out / ("curve" if curve else "measured")
        prooftune.run(study(options, rows, curve), out=out)
        scores.append(read_json(out / "scores.json"))
    predicted, actual = scores
    curves, metric = predicted["learning_curve"], actual["primary"]
    sizes = [f"{point['rows']:,}" for point in curves["variants"][options.variants[0]]["points"]]
    print(
        f"\n{metric}, {actual['n']:,} test rows\n\n"
        f"| | {' | '.join(sizes)} | predicted at {options.measured:,} | measured |\n"
        f"|---|{'---:|' * len(sizes)}---:|---:|"
    )
    for name in options.variants:
        curve_of, own = curves["variants"][name], actual["variants"][name]["metrics"][metric]
        points = " | ".join(f"{point['value']:.1%}" for point in curve_of["points"])
        ahead = next(e for e in curve_of["extrapolated"] if e["rows"] == options.measured)
        inside = ahead["low"] <= own["value"] <= ahead["high"]
        print(
            f"| `{name}` | {points} | {interval(ahead)} | {interval(own)}, "
            f"{'inside' if inside else 'OUTSIDE'} |",
            flush=True,
        )


def interval(figure: Figure) -> str:
    """A figure with its interval, as percentages."""
    return f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the public data sets")
    parser.add_argument("--variants", nargs="+", default=["tfidf", "embedding", "tuned"])
    parser.add_argument("--rows", type=int, default=2000, help="training rows of the curve")
    parser.add_argument("--measured", type=int, default=6000, help="training rows to predict")
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, default=Path("runs/learning-curve"))
    options = parser.parse_args(arguments)
    if options.data is not None:
        measured(options)
    else:
        simulated()


def simulated() -> None:
    """Print the coverage of the intervals."""
    print("| asymptote | error at 250 | exponent | test rows | spread | gain | width | accuracy |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for asymptote, at_250, exponent in ((0.08, 0.23, 0.3), (0.1, 0.29, 0.5), (0.02, 0.22, 0.2)):
        for n, spread in ((500, 0.007), (2000, 0.003), (7600, 0.004)):
            gain, width, accuracy, _ = coverage(asymptote, at_250, exponent, n, spread)
            print(
                f"| {asymptote} | {at_250} | {exponent} | {n:,} | {100 * spread:.1f} | {gain:.3f} "
                f"| {width:.1f} | {accuracy:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
