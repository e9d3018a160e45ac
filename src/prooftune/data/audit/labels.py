"""Audit checks of the label distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from prooftune.data.audit.findings import (
    MAX_ROWS_SHOWN,
    Finding,
    preview,
    row_locations,
    suggest_label_merge,
)
from prooftune.data.normalization import label_spelling_variants
from prooftune.types import Example, SplitName, Study

FEW_ROWS = 10
"""Labels with fewer training rows than this are reported."""
IMBALANCE_RATIO = 10
"""Ratio between the largest and smallest label at which the distribution is imbalanced."""


def count_labels(study: Study, examples: Iterable[Example]) -> dict[str, int]:
    """Return label -> rows; for questions, rows with and without an answer."""
    counts = Counter(example.stratum for example in examples)
    return {stratum: counts[stratum] for stratum in study.strata()}


def check_labels(study: Study, names: Mapping[str, str] | None = None) -> list[Finding]:
    """Check for unseen, untested, rare and imbalanced labels, and for spelling variants.

    Args:
        study: the labelled texts.
        names: the recipe's `data.labels`; None where it has none.
    """
    counts = count_labels(study, study.train)
    train_labels = [label for label in study.labels if counts[label]]
    findings = _unseen_labels(study, train_labels)
    # The other checks compare labels, and would only repeat this error in other words.
    if len(train_labels) < 2:
        one_class = Finding(
            "one-class",
            "error",
            f"only one label ('{train_labels[0]}') in all {len(study.train):,} training rows: "
            "there is nothing to classify. Is data.label the right column?",
        )
        return [one_class, *findings]
    findings += untested_labels(train_labels, count_labels(study, study.test))
    findings += spelling_variants(study, counts, names)
    findings += rare_labels(counts, train_labels)
    findings += _imbalance(counts, train_labels)
    return findings


def _unseen_labels(study: Study, train_labels: list[str]) -> list[Finding]:
    findings = []
    later_splits: tuple[SplitName, ...] = ("test", "validation")
    for name in later_splits:
        unseen = [e for e in study.splits()[name] if e.target not in train_labels]
        if unseen:
            rows = row_locations(unseen)
            labels = ", ".join(repr(label) for label in sorted({str(e.target) for e in unseen}))
            findings.append(
                Finding(
                    "unseen-label",
                    # No variant can predict the label, so each test row of it is a certain mistake;
                    # validation rows cost less.
                    "error" if name == "test" else "warning",
                    f"label {labels} in {name} ({preview(rows)}) but in no training row. "
                    f"Training labels: {', '.join(map(repr, train_labels[:12]))}",
                    rows,
                )
            )
    return findings


def untested_labels(train_labels: Sequence[str], test_counts: Mapping[str, int]) -> list[Finding]:
    """A finding on training labels that no test row has."""
    # Training labels only: a label in neither part is an unseen one, reported above.
    untested = [label for label in train_labels if not test_counts.get(label)]
    if not untested:
        return []
    message = (
        f"no test row has label {shown_labels(untested)}, so the test set cannot measure how well "
        "it is predicted."
    )
    return [Finding("untested-label", "warning", message)]


def shown_labels(labels: Sequence[str]) -> str:
    """The first labels of a list, quoted, and the number of the others."""
    more = len(labels) - MAX_ROWS_SHOWN
    shown = ", ".join(map(repr, labels[:MAX_ROWS_SHOWN]))
    return shown + (f" and {more} more" if more > 0 else "")


def spelling_variants(
    study: Study, counts: Mapping[str, int], names: Mapping[str, str] | None = None
) -> list[Finding]:
    """A finding on labels that differ only in case, spaces or hyphens, with one `data.labels` that
    merges them all.

    Args:
        study: the labelled texts.
        counts: label -> training rows.
        names: the recipe's `data.labels`; None where it has none.
    """
    # The most frequent spelling is probably the intended one.
    groups = [
        sorted(variants, key=lambda label: -counts[label])
        for variants in label_spelling_variants(study.labels)
    ]
    if not groups:
        return []
    # The mapping that is suggested must name every label, or the recipe would be refused.
    several = {label for group in groups for label in group}
    others = [label for label in study.labels if label not in several]
    shown = "; ".join(", ".join(map(repr, group)) for group in groups[:MAX_ROWS_SHOWN])
    more = len(groups) - MAX_ROWS_SHOWN
    return [
        Finding(
            "alike-labels",
            "warning",
            f"labels {shown}{f'; and {more} more' if more > 0 else ''} differ only in case, spaces "
            f"or hyphens. If they are the same label: {suggest_label_merge(groups, others, names)}",
        )
    ]


def rare_labels(counts: Mapping[str, int], train_labels: Sequence[str]) -> list[Finding]:
    """A finding on labels with few training rows."""
    rare = {label: counts[label] for label in train_labels if counts[label] < FEW_ROWS}
    if not rare:
        return []
    shown = ", ".join(f"'{label}' ({n})" for label, n in list(rare.items())[:MAX_ROWS_SHOWN])
    more = len(rare) - MAX_ROWS_SHOWN
    others = f" and {more} more labels" if more > 0 else ""
    return [Finding("few-rows", "warning", f"few training rows for {shown}{others}.")]


def _imbalance(counts: dict[str, int], train_labels: list[str]) -> list[Finding]:
    largest = max(train_labels, key=lambda label: counts[label])
    smallest = min(train_labels, key=lambda label: counts[label])
    if counts[largest] <= IMBALANCE_RATIO * counts[smallest]:
        return []
    message = (
        f"imbalanced label distribution: '{largest}' has {counts[largest]:,} training rows, "
        f"'{smallest}' {counts[smallest]:,}. Accuracy alone is misleading; see balanced accuracy "
        "and macro F1. class_weights: balanced lets every label count alike in training."
    )
    return [Finding("imbalance", "warning", message)]
