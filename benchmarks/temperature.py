"""From how many validation rows fitting a temperature pays, by simulation.

    python benchmarks/temperature.py     # seconds; prints the table of docs/statistics.md

Labels are drawn from known probabilities; a model gives these probabilities, sharpened by a known
temperature. One is fitted on a sample of rows, and its log-loss on all rows is compared with that
of T = 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.calibration import TEMPERATURES

ROWS = (10, 20, 30, 50, 100, 200)
SHARPNESS = {"calibrated": 1.0, "T = 1.5": 1.5, "T = 2.5": 2.5, "T = 0.7": 0.7}
SPREADS = {2: (1.0, 2.5, 6.0, 20.0), 6: (1.5, 3.0, 8.0, 25.0)}
"""Standard deviations of the true scores, which decide the accuracy, by number of labels."""
POPULATION, DRAWS = 8000, 300
GRID = np.exp(np.linspace(*np.log(TEMPERATURES), 61))
UNSCALED = 30
"""Index of T = 1 in the grid."""

Floats = NDArray[np.float64]


def losses_by_temperature(scores: Floats, targets: NDArray[np.int64]) -> Floats:
    """Log-loss of every row at every temperature, [n, temperatures]."""
    result = np.empty((len(scores), len(GRID)))
    for i, temperature in enumerate(GRID):
        scaled = scores / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        log_probs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        result[:, i] = -log_probs[np.arange(len(scores)), targets]
    return result


def populations(generator: np.random.Generator) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """True scores [n, L] and labels drawn from their probabilities."""
    for classes, spreads in SPREADS.items():
        for spread in spreads:
            scores = generator.normal(0, spread, (POPULATION, classes))
            probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            drawn = generator.random((POPULATION, 1))
            yield scores, (probabilities.cumsum(axis=1) > drawn).argmax(axis=1)


def main() -> None:
    generator = np.random.default_rng(1)
    # By sharpness and rows, the mean change of the log-loss in every population; with the rule
    # that T is 1 where all rows are right, and without.
    changes: dict[str, list[list[float]]] = {name: [[] for _ in ROWS] for name in SHARPNESS}
    without: list[list[float]] = [[] for _ in ROWS]
    for scores, targets in populations(generator):
        right = scores.argmax(axis=1) == targets
        for name, sharpness in SHARPNESS.items():
            losses = losses_by_temperature(scores * sharpness, targets)
            on_all = losses.mean(axis=0)
            for position, rows in enumerate(ROWS):
                sample = generator.integers(0, POPULATION, (DRAWS, rows))
                change = on_all[losses[sample].mean(axis=1).argmin(axis=1)] - on_all[UNSCALED]
                fitted = np.where(right[sample].all(axis=1), 0.0, change)
                changes[name][position].append(float(fitted.mean()))
                if name == "calibrated":
                    without[position].append(float(change.mean()))
    print("| the model's own probabilities | " + " | ".join(f"{rows} rows" for rows in ROWS) + " |")
    print("|---|" + "---:|" * len(ROWS))
    for name, by_rows in changes.items():
        print(_line(f"{name}: mean", [float(np.mean(cases)) for cases in by_rows]))
        print(_line(f"{name}: worst", [max(cases) for cases in by_rows]))
    print(_line("calibrated, T also fitted where all are right: worst", [max(c) for c in without]))


def _line(name: str, values: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{v:+.3f}".replace("-", "−") for v in values) + " |"


if __name__ == "__main__":
    main()
