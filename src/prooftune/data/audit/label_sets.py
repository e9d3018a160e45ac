"""Audit checks of ``task: multilabel``: labels per text, texts without any, rare labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from prooftune.data.audit.findings import (
    MAX_ROWS_SHOWN,
    Finding,
    count_noun,
    preview,
    row_locations,
    suggest_label_merge,
)
from prooftune.data.audit.labels import FEW_ROWS
from prooftune.data.normalization import label_spelling_variants
from prooftune.types import Example, SplitName, Study


def count_set_labels(study: Study, examples: Iterable[Example]) -> dict[str, int]:
    """Label -> rows that have it."""
    counts = Counter(label for example in examples for label in example.targets)
    return {label: counts[label] for label in study.labels}


def cardinality(examples: Sequence[Example]) -> float:
    """Mean number of labels per text."""
    return sum(len(example.targets) for example in examples) / max(len(examples), 1)


def check_label_sets(study: Study) -> list[Finding]:
    """Check for texts without labels, unseen, untested and rare labels, and spelling variants."""
    counts = count_set_labels(study, study.train)
    present = [label for label in study.labels if counts[label]]
    if not present:
        return [
            Finding(
                "one-class",
                "error",
                f"none of the {len(study.train):,} training rows has a label, so there is nothing "
                "to learn. Is data.label the right column?",
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
    findings += [_sizes(study), *_unlabelled(study)]
    tested = count_set_labels(study, study.test)
    untested = [label for label in present if not tested[label]]
    if untested:
        findings.append(
            Finding(
                "untested-label",
                "warning",
                f"no test row has label {_names(untested)}, so the test set cannot measure how "
                "well it is predicted.",
            )
        )
    for variants in label_spelling_variants(study.labels)[:MAX_ROWS_SHOWN]:
        # The most frequent spelling is probably the intended one.
        ranked = sorted(variants, key=lambda label: -counts[label])
        others = [label for label in study.labels if label not in variants]
        findings.append(
            Finding(
                "alike-labels",
                "warning",
                f"labels {_names(ranked)} differ only in case, spaces or hyphens. If they are the "
                f"same label: {suggest_label_merge(ranked, others)}",
            )
        )
    rare = [label for label in present if counts[label] < FEW_ROWS]
    if rare:
        shown = ", ".join(f"'{label}' ({counts[label]})" for label in rare[:MAX_ROWS_SHOWN])
        more = len(rare) - MAX_ROWS_SHOWN
        others_text = f" and {more} more labels" if more > 0 else ""
        findings.append(
            Finding("few-rows", "warning", f"few training rows for {shown}{others_text}.")
        )
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


def _unlabelled(study: Study) -> list[Finding]:
    findings = []
    for name, examples in study.splits().items():
        rows = row_locations(e for e in examples if not e.targets)
        if rows:
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
                    f"label {_names(labels)} in {name} ({preview(rows)}) but in no training row, "
                    "so no variant can predict it.",
                    rows,
                )
            )
    return findings


def _names(labels: Sequence[str]) -> str:
    more = len(labels) - MAX_ROWS_SHOWN
    shown = ", ".join(map(repr, labels[:MAX_ROWS_SHOWN]))
    return shown + (f" and {more} more" if more > 0 else "")
