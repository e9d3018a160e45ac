"""Samples of examples that keep the shares of labels and languages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prooftune.recipe import Recipe
from prooftune.types import Example, Study
from prooftune.utils.disk_list import DiskBackedList


def stratum_of(example: Example) -> str:
    """Label and language: each language has its share in every part."""
    return f"{example.language}\0{example.stratum}" if example.language else example.stratum


def limit_splits(study: Study, recipe: Recipe) -> Study:
    """Subsample each split to at most ``data.limit`` rows, stratified by label."""
    limited: dict[str, Sequence[Example]] = {}
    notes = list(study.notes)
    for name, examples in study.splits().items():
        limit = getattr(recipe.data.limit, name)
        limited[name] = stratified_sample(examples, limit, recipe.seed) if limit else examples
        if len(limited[name]) < len(examples):
            notes.append(
                f"{name}: {len(limited[name]):,} of {len(examples):,} rows sampled (data.limit)."
            )
    return replace(
        study,
        train=limited["train"],
        validation=limited["validation"],
        test=limited["test"],
        notes=notes,
    )


def stratified_sample(examples: Sequence[Example], max_rows: int, seed: int) -> Sequence[Example]:
    """Sample at most this many examples, in their order, stratified by largest remainders.

    Smaller samples with the same seed are subsets of larger ones, as far as the rounded shares
    allow, so that studies of different size can be compared.
    """
    if len(examples) <= max_rows:
        return examples
    rows_by_label: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        rows_by_label.setdefault(stratum_of(example), []).append(i)
    quotas = {label: len(rows) * max_rows / len(examples) for label, rows in rows_by_label.items()}
    # Rounded down; the rows that this leaves over go to the largest remainders.
    counts = {label: int(quota) for label, quota in quotas.items()}
    # Labels break ties, so that the sample does not depend on the order of the dictionary.
    by_remainder = sorted(quotas, key=lambda label: (counts[label] - quotas[label], label))
    for label in by_remainder[: max_rows - sum(counts.values())]:
        counts[label] += 1
    sampled: list[int] = []
    for label, rows in sorted(rows_by_label.items(), key=lambda item: item[0]):
        # A prefix of one permutation per label: that makes smaller samples subsets of larger ones.
        order = np.random.default_rng([seed, len(rows)]).permutation(len(rows))
        sampled += [rows[i] for i in order[: counts[label]]]
    return DiskBackedList(examples[i] for i in sorted(sampled))
