"""Precision of the search for label errors: labels are replaced at random, and counted in the list.

    python benchmarks/label_errors.py FILE

FILE: a CSV file without a header of label, title and text, as AG News comes.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from prooftune.evaluation.label_errors import label_quality, likely_errors, pooled_probabilities
from prooftune.recipe import Variant
from prooftune.types import Example
from prooftune.variants.cross_validation import embedding_probabilities, tfidf_probabilities

ROWS, FLIPS, SEEDS = 2_000, 100, 5


def main(file: Path) -> None:
    """Print a Markdown table, a row for each seed."""
    with file.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))[:ROWS]
    labels = sorted({row[0] for row in rows})
    print("| seed | TF-IDF | with embeddings | flagged | planted among these |")
    print("|---:|---:|---:|---:|---:|")
    for seed in range(SEEDS):
        draw = np.random.default_rng(seed)
        targets = np.array([labels.index(row[0]) for row in rows])
        planted = np.zeros(len(rows), bool)
        planted[draw.choice(len(rows), FLIPS, replace=False)] = True
        shift = draw.integers(1, len(labels), FLIPS)
        targets[planted] = (targets[planted] + shift) % len(labels)
        examples = [
            Example(str(i), {"text": "\n".join(row[1:])}, labels[targets[i]])
            for i, row in enumerate(rows)
        ]
        tfidf = tfidf_probabilities(examples, labels, 0)
        embedding = embedding_probabilities(
            examples, labels, 0, Variant(kind="embedding"), "training rows"
        )
        both = pooled_probabilities([tfidf, embedding])
        found = [
            int(planted[np.argsort(label_quality(targets, p), kind="stable")[:100]].sum())
            for p in (tfidf, both)
        ]
        flagged = likely_errors(targets, both)
        print(
            f"| {seed} | {found[0]} | {found[1]} | {flagged.sum()} "
            f"| {int((flagged & planted).sum())} |",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
