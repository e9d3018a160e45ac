"""How often the intervals of learning curves contain the truth, where errors fall by a power law.

    python benchmarks/learning_curve.py

Variants of known error are drawn at 250, 500, 1,000 and 2,000 training rows. All predict the same
test rows and are mostly wrong on the same ones. Each number of rows has its own noise of a
training subset. The gain from 2,000 to 4,000 rows, and the accuracy of one more training on 4,000
rows, are compared with the truth.
"""

from __future__ import annotations

import numpy as np

from prooftune.evaluation.learning_curve import Points, fit_curve

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


def main() -> None:
    """Print a Markdown table."""
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
