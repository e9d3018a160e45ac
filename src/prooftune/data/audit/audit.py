"""The data audit: problems in the data, reported before any training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from prooftune.data.audit.fertility import Fertility, fertility_findings, measure_fertility
from prooftune.data.audit.findings import Finding, count_noun, preview, row_locations
from prooftune.data.audit.label_names import numeric_labels, unordered_ratings
from prooftune.data.audit.label_sets import check_label_sets, count_set_labels
from prooftune.data.audit.labels import check_labels, count_labels
from prooftune.data.audit.leakage import (
    SplitKeys,
    find_conflicting_labels,
    find_leakage,
    find_repeated_rows,
)
from prooftune.data.audit.mojibake import text_damage
from prooftune.data.audit.questions import answers_not_in_context, context_leakage
from prooftune.data.normalization import example_dedup_key
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Example, Study
from prooftune.utils.disk_list import DiskBackedList


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of a data audit.

    Attributes:
        findings: errors first, then warnings, then info.
        rows: split -> number of rows in the sources.
        label_counts: split -> label -> rows.
        lengths: split -> ``median``, ``p95``, ``max`` prompt length in tokens; empty if no variant
            uses a language model.
        truncation: split -> ``rows`` and ``share`` of truncated inputs, and ``limit``, which is
            `prompt.max_length`.
        fertility: language -> tokens per word; empty if no variant uses a language model.
        leaked_ids: split -> ids of its rows that also occur in a later split.
    """

    findings: list[Finding]
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    truncation: dict[str, dict[str, float]] = field(default_factory=dict)
    fertility: dict[str, Fertility] = field(default_factory=dict)
    leaked_ids: dict[str, set[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of audit.json in the run folder."""
        return {
            "findings": [asdict(f) for f in self.findings],
            "rows": self.rows,
            "balance": self.label_counts,
            "lengths": self.lengths,
            "truncation": self.truncation,
            "fertility": self.fertility,
        }

    def raise_errors(self) -> None:
        """Raise the findings of severity error.

        Raises:
            UsageError: there are any; the message lists them all.
        """
        raise_findings(self.findings)


def raise_findings(findings: Sequence[Finding]) -> None:
    """Raise the findings of severity error.

    Raises:
        UsageError: there are any; the message lists them all.
    """
    errors = [f.message for f in findings if f.severity == "error"]
    if errors:
        raise UsageError(
            "the data audit found "
            + (
                errors[0]
                if len(errors) == 1
                else f"{len(errors)} errors:\n" + "\n".join(f"  - {m}" for m in errors)
            )
        )


def audit_study(study: Study, recipe: Recipe) -> AuditReport:
    """Audit a study: contamination, conflicting labels, label distribution, empty or damaged text.

    Token lengths are measured later, by `add_token_lengths`.
    """
    # On disk: there may be millions of texts.
    keys: SplitKeys = {
        name: DiskBackedList(example_dedup_key(e) for e in examples)
        for name, examples in study.splits().items()
    }
    findings, leaked_ids = find_leakage(study, keys, recipe.audit)
    findings += find_repeated_rows(study, keys)
    findings += _empty_rows(study)
    # Checks of labels and of answers apply to one kind of task each.
    if recipe.task == "classification":
        findings += find_conflicting_labels(study, keys) + check_labels(study, recipe.data.labels)
        findings += numeric_labels(study, recipe) + unordered_ratings(study, recipe)
    elif recipe.task == "multilabel":
        findings += find_conflicting_labels(study, keys) + check_label_sets(
            study,
            recipe.data.labels,
            "data.label_columns" if recipe.data.label_columns else "data.label",
        )
    else:
        findings += context_leakage(study)
        if recipe.task == "extractive-qa":
            findings += answers_not_in_context(study)
    findings += _damaged_text(study)
    return AuditReport(
        _by_severity(findings),
        {name: len(examples) for name, examples in study.splits().items()},
        {
            name: (count_set_labels if recipe.task == "multilabel" else count_labels)(
                study, examples
            )
            for name, examples in study.splits().items()
        },
        leaked_ids=leaked_ids,
    )


def add_token_lengths(
    report: AuditReport,
    study: Study,
    recipe: Recipe,
    count_tokens: Callable[[Sequence[Example]], Iterable[tuple[int, int]]],
) -> AuditReport:
    """Return the report with prompt lengths in tokens and truncation.

    Args:
        count_tokens: examples -> (prompt tokens, truncated tokens) of each.
    """
    lengths: dict[str, dict[str, int]] = {}
    truncation: dict[str, dict[str, float]] = {}
    findings = list(report.findings)
    for name, examples in study.splits().items():
        if not examples:
            continue
        # Flat, so that an example takes 8 bytes and not a tuple.
        counts = np.fromiter(chain.from_iterable(count_tokens(examples)), np.int32).reshape(-1, 2)
        tokens, truncated = counts.T
        rows = [examples[int(i)].source for i in np.flatnonzero(truncated)]
        lengths[name] = {
            "median": int(np.median(tokens)),
            "p95": int(np.percentile(tokens, 95)),
            "max": int(tokens.max()),
        }
        # The share decides, since a few long outliers are normal in every data set.
        share = len(rows) / len(examples)
        truncation[name] = {"rows": len(rows), "share": share, "limit": recipe.prompt.max_length}
        if rows:
            findings.append(_truncation_finding(name, rows, share, lengths[name], recipe))
    return replace(report, findings=_by_severity(findings), lengths=lengths, truncation=truncation)


def add_fertility(
    report: AuditReport, study: Study, recipe: Recipe, count: Callable[[str], int], english: str
) -> AuditReport:
    """Return the report with the tokens that a word of each language takes.

    Args:
        count: text -> number of its tokens.
        english: an English text to compare with.
    """
    limit = recipe.prompt.max_length
    measured = measure_fertility(study, count, english, limit)
    findings = [*report.findings, *fertility_findings(measured, limit)]
    return replace(report, findings=_by_severity(findings), fertility=measured)


def _truncation_finding(
    split: str, rows: list[str], share: float, lengths: dict[str, int], recipe: Recipe
) -> Finding:
    max_share = recipe.audit.max_truncated
    verb = "exceed" if len(rows) != 1 else "exceeds"
    message = (
        f"{count_noun(len(rows), split + ' row')} ({share:.1%}) {verb} prompt.max_length "
        f"{recipe.prompt.max_length} and would be truncated (median {lengths['median']:,} tokens, "
        f"maximum {lengths['max']:,})"
    )
    if share <= max_share:
        return Finding("truncated", "warning", f"{message}.", rows)
    return Finding(
        "truncated",
        "error",
        f"{message}: more than audit.max_truncated allows ({max_share:.0%}). Raise "
        "prompt.max_length, or accept the truncation by raising audit.max_truncated",
        rows,
    )


def drop_rows(study: Study, report: AuditReport, recipe: Recipe) -> Study:
    """Drop empty rows, and with ``audit.leak: drop`` also leaked rows, from train and validation.

    Test rows are never dropped, so that the test set stays as given.

    Raises:
        UsageError: no rows remain in a split.
    """
    remaining: dict[str, Sequence[Example]] = {}
    notes = list(study.notes)
    # Never the test set: which rows are tested may not depend on the training data.
    for name in ("train", "validation"):
        examples: Sequence[Example] = getattr(study, name)
        leaked = report.leaked_ids.get(name, set()) if recipe.audit.leak == "drop" else set()
        # Counted first: usually nothing is dropped, and the rows then need no copy on disk.
        counts = Counter(
            "empty" if e.is_empty else "leaked" if e.id in leaked else "remaining" for e in examples
        )
        if counts["empty"]:
            notes.append(f"{name}: {count_noun(counts['empty'], 'row')} without text dropped.")
        remaining[name] = examples
        if counts["remaining"] < len(examples):
            remaining[name] = DiskBackedList(
                e for e in examples if not e.is_empty and e.id not in leaked
            )
        if counts["leaked"]:
            later = "test" if name == "validation" else "validation or test"
            notes.append(
                f"{name}: {count_noun(counts['leaked'], 'row')} dropped (audit.leak: drop): "
                f"duplicates or near-duplicates of {later} rows."
            )
        if examples and not remaining[name]:
            raise UsageError(
                f"no {name} rows remain after dropping empty and leaked rows. If the texts are "
                "alike but no copies, set audit.near_duplicates: null"
            )
    return replace(study, train=remaining["train"], validation=remaining["validation"], notes=notes)


def _empty_rows(study: Study) -> list[Finding]:
    findings = []
    if rows := [*study.empty_rows]:
        message = (
            f"{count_noun(len(rows), 'row')} without text: {preview(rows)}. "
            f"{_dropped(rows)} before the split."
        )
        findings.append(Finding("empty", "warning", message, rows))
    for name, examples in study.splits().items():
        rows = row_locations(e for e in examples if e.is_empty)
        if rows:
            # A test row without text is one that users send too: leaving it out would flatter the
            # scores.
            stay = "They stay" if len(rows) > 1 else "It stays"
            effect = f"{stay} in the test set." if name == "test" else f"{_dropped(rows)}."
            message = (
                f"{count_noun(len(rows), name + ' row')} without text: {preview(rows)}. {effect}"
            )
            findings.append(Finding("empty", "warning", message, rows))
    return findings


def _dropped(rows: Sequence[str]) -> str:
    return "They are dropped" if len(rows) > 1 else "It is dropped"


def _damaged_text(study: Study) -> list[Finding]:
    rows_by_kind: dict[str, list[str]] = defaultdict(list)
    for examples in study.splits().values():
        for example in examples:
            for kind in text_damage(" ".join(example.inputs.values())):
                rows_by_kind[kind].append(example.source)
    return [
        Finding(
            "damage",
            "warning",
            f"{count_noun(len(rows), 'row')} with {kind}: {preview(rows)}.",
            rows,
        )
        for kind, rows in sorted(rows_by_kind.items())
    ]


def _by_severity(findings: list[Finding]) -> list[Finding]:
    # `sorted` is stable: findings of one severity stay in the order of the checks.
    return sorted(findings, key=lambda f: ("error", "warning", "info").index(f.severity))
