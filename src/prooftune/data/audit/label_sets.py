"""Audit checks of ``task: multilabel``: labels per text, texts without any, rare labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from prooftune.data.audit.findings import (
    Finding,
    count_noun,
    preview,
    row_locations,
)
from prooftune.data.audit.labels import (
    rare_labels,
    shown_labels,
    spelling_variants,
    untested_labels,
)
from prooftune.data.multilabel import separator_of_several
from prooftune.types import Example, SplitName, Study


def count_set_labels(study: Study, examples: Iterable[Example]) -> dict[str, int]:
    """Label -> rows that have it."""
    counts = Counter(label for example in examples for label in example.targets)
    return {label: counts[label] for label in study.labels}


def cardinality(examples: Sequence[Example]) -> float:
    """Mean number of labels per text."""
    return sum(len(example.targets) for example in examples) / max(len(examples), 1)


def check_label_sets(
    study: Study, names: Mapping[str, str] | None = None, key: str = "data.label"
) -> list[Finding]:
    """Check for texts without labels, unseen, untested and rare labels, and spelling variants.

    Args:
        study: the labelled texts.
        names: the recipe's `data.labels`; None where it has none.
        key: of the recipe, which names the labels' column or columns.
    """
    counts = count_set_labels(study, study.train)
    present = [label for label in study.labels if counts[label]]
    if not present:
        return [
            Finding(
                "one-class",
                "error",
                f"none of the {len(study.train):,} training rows has a label, so there is nothing "
                f"to learn. Check that {key} names where the labels are",
            )
        ]
    findings = _unseen(study, present)
    # Every text has the same set: each label alone would be a constant, too.
    if len({example.target for example in study.train}) < 2:
        [first] = study.train[:1]
        findings.append(
            Finding(
                "one-class",
                "error",
                f"all {len(study.train):,} training rows have the same labels "
                f"({', '.join(first.targets)}): there is nothing to classify",
            )
        )
    findings += [_sizes(study), *joined_labels(study), *_unlabelled(study, key)]
    findings += untested_labels(present, count_set_labels(study, study.test))
    findings += spelling_variants(study, counts, names)
    findings += rare_labels(counts, present)
    return findings


def _sizes(study: Study) -> Finding:
    several = sum(len(e.targets) > 1 for e in study.train)
    sets = len({e.target for e in study.train})
    return Finding(
        "cardinality",
        "info",
        f"{cardinality(study.train):.2f} labels per training text; {several:,} of "
        f"{len(study.train):,} have several, in {sets:,} different label sets.",
    )


def joined_labels(study: Study) -> list[Finding]:
    """Cells with several labels that were read as one, for want of a separator."""
    labels = [label for example in study.train for label in example.targets]
    several = any(len(example.targets) > 1 for example in study.train)
    separator = None if several else separator_of_several(labels)
    if separator is None:
        return []
    joined = next(label for label in labels if separator in label)
    return [
        Finding(
            "joined-labels",
            "warning",
            f"no training row has several labels, and labels such as '{joined}' look like several. "
            f"If they are, set data.label_separator: {json.dumps(separator)}",
        )
    ]


def _files(examples: Sequence[Example]) -> set[str]:
    return {example.source.rpartition(":")[0] for example in examples}


def _unlabelled(study: Study, key: str) -> list[Finding]:
    findings = []
    for name, examples in study.splits().items():
        rows = row_locations(e for e in examples if not e.targets)
        if rows and len(rows) == len(examples):
            # An empty label says that none applies, so a file without its labels looks the same.
            # A few validation rows that were split off may have none by chance.
            by_chance = name != "test" and _files(examples) & _files(study.train)
            findings.append(
                Finding(
                    "no-labels",
                    "warning" if by_chance else "error",
                    f"none of the {len(rows):,} {name} rows has a label, so they cannot tell "
                    f"variants apart. Check that {key} names where the labels of their file are",
                    rows,
                )
            )
        elif rows:
            findings.append(
                Finding(
                    "no-labels",
                    "info",
                    f"{count_noun(len(rows), name + ' row')} without any label: {preview(rows)}. "
                    "They count as texts to which no label applies.",
                    rows,
                )
            )
    return findings


def _unseen(study: Study, present: Sequence[str]) -> list[Finding]:
    findings = []
    later: tuple[SplitName, ...] = ("test", "validation")
    for name in later:
        unseen = [e for e in study.splits()[name] if not set(e.targets) <= set(present)]
        if unseen:
            rows = row_locations(unseen)
            labels = sorted({label for e in unseen for label in e.targets} - set(present))
            findings.append(
                Finding(
                    "unseen-label",
                    "warning",
                    f"label {shown_labels(labels)} in {name} ({preview(rows)}) but in no training "
                    "row, so no variant can predict it.",
                    rows,
                )
            )
    return findings
