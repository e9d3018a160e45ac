"""Precision of the search for label errors: labels are replaced at random, and counted in the list.

    python benchmarks/label_errors.py FILE

FILE: a CSV file without a header of label, title and text, as AG News comes.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from prooftune.evaluation.label_errors import label_quality, likely_errors, pooled_probabilities
from prooftune.recipe import Variant
from prooftune.types import Example
from prooftune.variants.cross_validation import (
    embedding_features,
    embedding_probabilities,
    tfidf_probabilities,
)

ROWS, FLIPS, SEEDS = 2_000, 100, 5


def main(file: Path) -> None:
    """Print a Markdown table, a row for each seed."""
    with file.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))[:ROWS]
    texts = [Example(str(i), {"text": "\n".join(row[1:])}) for i, row in enumerate(rows)]
    vectors = embedding_features(texts, Variant(kind="embedding"), "rows")
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
        examples = [replace(e, target=labels[targets[i]]) for i, e in enumerate(texts)]
        tfidf = tfidf_probabilities(examples, labels, 0)
        embedding = embedding_probabilities(vectors, examples, labels, 0)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    main(parser.parse_args().file)
