"""What is wrong with the data, found before anything trains."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from prooftune.data.audit import duplicates
from prooftune.data.audit.findings import (
    MAX_ROWS_SHOWN,
    Finding,
    count_noun,
    preview,
    row_locations,
    suggest_label_merge,
)
from prooftune.data.audit.mojibake import text_damage
from prooftune.data.audit.questions import answers_not_in_context, context_leakage
from prooftune.data.normalization import example_dedup_key, label_spelling_variants
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.types import Example, SplitName, Study
from prooftune.utils.disk_list import DiskBackedList

FEW_ROWS = 10
IMBALANCE_RATIO = 10
_LEAKS: tuple[tuple[SplitName, SplitName], ...] = (
    ("train", "test"),
    ("validation", "test"),
    ("train", "validation"),
)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything the audit found.

    Attributes:
        findings: errors first.
        rows: split -> number of rows as they were read.
        label_counts: split -> label -> rows.
        lengths: split -> ``median``, ``p95``, ``max`` tokens of the prompt; empty where no variant
            asks a language model.
        truncation: split -> ``rows``, ``share`` whose input is shortened, ``limit``:
            `prompt.max_length`.
        leaked_ids: split -> ids of its rows that also stand in a later split.
    """

    findings: list[Finding]
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    truncation: dict[str, dict[str, float]] = field(default_factory=dict)
    leaked_ids: dict[str, set[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [asdict(f) for f in self.findings],
            "rows": self.rows,
            "balance": self.label_counts,
            "lengths": self.lengths,
            "truncation": self.truncation,
        }

    def raise_errors(self) -> None:
        """Raise the errors found.

        Raises:
            UsageError: naming every finding of severity error.
        """
        errors = [f.message for f in self.findings if f.severity == "error"]
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
    """Look for leaks between splits, contradictions, empty, damaged and repeated texts, and labels
    without rows."""
    texts: dict[SplitName, Sequence[str]] = {
        name: DiskBackedList(example_dedup_key(e) for e in examples)
        for name, examples in study.splits().items()
    }
    findings, leaks = _leaks(study, texts, recipe)
    findings += _repeats(study, texts)
    findings += _empty(study)
    if recipe.task == "classification":
        findings += _contradictions(study, texts) + _labels(study)
    else:
        findings += context_leakage(study) + (
            answers_not_in_context(study) if recipe.task == "extractive-qa" else []
        )
    findings += _damage(study)
    return AuditReport(
        _sorted(findings),
        {name: len(examples) for name, examples in study.splits().items()},
        {name: _counts(study, examples) for name, examples in study.splits().items()},
        leaked_ids=leaks,
    )


def add_token_lengths(
    report: AuditReport,
    study: Study,
    recipe: Recipe,
    measure: Callable[[Sequence[Example]], Iterable[tuple[int, int]]],
) -> AuditReport:
    """The report with token lengths, and what of them is more than the limit.

    Args:
        measure: examples -> (tokens of the whole prompt, tokens that would be cut) each.
    """
    lengths: dict[str, dict[str, int]] = {}
    truncation: dict[str, dict[str, float]] = {}
    findings = list(report.findings)
    limit = recipe.prompt.max_length
    for name, examples in study.splits().items():
        if not examples:
            continue
        tokens, over = (
            np.fromiter(chain.from_iterable(measure(examples)), np.int32).reshape(-1, 2).T
        )
        cut = [examples[int(i)].source for i in np.flatnonzero(over)]
        lengths[name] = {
            "median": int(np.median(tokens)),
            "p95": int(np.percentile(tokens, 95)),
            "max": int(tokens.max()),
        }
        share = len(cut) / len(examples)
        truncation[name] = {"rows": len(cut), "share": share, "limit": limit}
        if cut:
            findings.append(_truncated(name, cut, share, lengths[name], recipe))
    return replace(report, findings=_sorted(findings), lengths=lengths, truncation=truncation)


def _truncated(
    name: str, cut: list[str], share: float, lengths: dict[str, int], recipe: Recipe
) -> Finding:
    most = recipe.audit.max_truncated
    are = "are" if len(cut) != 1 else "is"
    message = (
        f"{count_noun(len(cut), name + ' row')} ({share:.1%}) {are} longer than prompt.max_length "
        f"{recipe.prompt.max_length} "
        f"and would be shortened (median {lengths['median']:,} tokens, longest {lengths['max']:,})"
    )
    if share <= most:
        return Finding("truncated", "warning", f"{message}.", cut)
    return Finding(
        "truncated",
        "error",
        f"{message}: more than audit.max_truncated allows ({most:.0%}). Raise "
        "prompt.max_length, or accept it by raising audit.max_truncated",
        cut,
    )


def drop_rows(study: Study, report: AuditReport, recipe: Recipe) -> Study:
    """Drop what cannot be used: empty training texts, and leaking rows where ``audit.leak: drop``
    says so.

    Test rows are never dropped: the test set is what was given.
    """
    kept: dict[str, Sequence[Example]] = {}
    notes = list(study.notes)
    for name in ("train", "validation"):
        examples: Sequence[Example] = getattr(study, name)
        leaking = report.leaked_ids.get(name, set()) if recipe.audit.leak == "drop" else set()
        fates = Counter(
            "empty" if _is_empty(e) else "leaking" if e.id in leaking else "kept" for e in examples
        )
        if fates["empty"]:
            notes.append(f"{name}: {count_noun(fates['empty'], 'row')} without text dropped.")
        kept[name] = examples
        if fates["kept"] < len(examples):
            kept[name] = DiskBackedList(
                e for e in examples if not _is_empty(e) and e.id not in leaking
            )
        if fates["leaking"]:
            later = "test" if name == "validation" else "validation or test"
            notes.append(
                f"{name}: {count_noun(fates['leaking'], 'row')} dropped because the same or nearly "
                "the same "
                f"text stands in {later} (audit.leak: drop)."
            )
        if examples and not kept[name]:
            raise UsageError(f"no {name} row is left after dropping empty and leaking ones")
    return replace(study, train=kept["train"], validation=kept["validation"], notes=notes)


def _is_empty(example: Example) -> bool:
    return not any(text.strip() for text in example.inputs.values())


def _leaks(
    study: Study, texts: dict[SplitName, Sequence[str]], recipe: Recipe
) -> tuple[list[Finding], dict[str, set[str]]]:
    splits, findings = study.splits(), []
    leaks: dict[str, set[str]] = defaultdict(set)
    threshold = recipe.audit.near_duplicates
    near = {}
    if threshold is not None:
        near = duplicates.find_near_duplicates(texts, _LEAKS, threshold)
    for first, second in _LEAKS:
        exact = duplicates.find_exact_duplicates(texts[first], texts[second])
        copies = {texts[second][j] for _, j in exact}
        copied = sum(text in copies for text in texts[second])
        alike = near.get((first, second), [])
        for kind, pairs, others in (
            ("exact", exact, copied),
            ("near", alike, len({j for _, j in alike})),
        ):
            if pairs:
                leaks[first] |= {splits[first][i].id for i, _ in pairs}
                rows = [f"{splits[first][i].source} = {splits[second][j].source}" for i, j in pairs]
                findings.append(_leak(kind, first, second, rows, others, recipe))
    return findings, dict(leaks)


def _leak(
    kind: str, first: str, second: str, rows: list[str], others: int, recipe: Recipe
) -> Finding:
    one = len(rows) == 1
    how = (
        f"{'has' if one else 'have'} the same words as"
        if kind == "exact"
        else (
            f"{'is' if one else 'are'} nearly the same (Jaccard similarity "
            f"{recipe.audit.near_duplicates:g} or more) as"
        )
    )
    message = (
        f"{count_noun(len(rows), first + ' row')} {how} {count_noun(others, second + ' row')}: "
        f"{preview(rows)}"
    )
    if recipe.audit.leak == "drop":
        return Finding(f"{kind}-leak", "info", f"{message}. Dropped from {first}.", rows)
    if second == "test" and recipe.audit.leak == "error":
        return Finding(
            f"{kind}-leak",
            "error",
            f"{message}. Remove them, or let audit.leak: drop remove them from {first} "
            "(audit.leak: allow keeps them, and the scores are then too good)",
            rows,
        )
    return Finding(f"{kind}-leak", "warning", f"{message}.", rows)


def _contradictions(study: Study, texts: dict[SplitName, Sequence[str]]) -> list[Finding]:
    """The same text under different labels, in any split: at least one is wrong, or the labels
    overlap."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    again = duplicates.duplicate_indices(chain.from_iterable(texts.values()))
    for name, examples in study.splits().items():
        for i in (place for place in again if 0 <= place < len(examples)):
            if texts[name][i]:
                seen[texts[name][i]].setdefault(examples[i].target or "", examples[i].source)
        again = [place - len(examples) for place in again]
    rows = [
        " / ".join(f"{source} ({label})" for label, source in labels.items())
        for labels in seen.values()
        if len(labels) > 1
    ]
    if not rows:
        return []
    stand = "stand" if len(rows) != 1 else "stands"
    message = f"{count_noun(len(rows), 'text')} {stand} under more than one label: {preview(rows)}."
    return [Finding("contradiction", "warning", message, rows)]


def _repeats(study: Study, texts: dict[SplitName, Sequence[str]]) -> list[Finding]:
    findings = []
    for name, examples in study.splits().items():
        first: dict[str, str] = {}
        rows = []
        for i in duplicates.duplicate_indices(texts[name]):
            text, source = texts[name][i], examples[i].source
            if text and text in first:
                rows.append(f"{source} = {first[text]}")
            first.setdefault(text, source)
        if rows:
            repeat = "repeat" if len(rows) != 1 else "repeats"
            findings.append(
                Finding(
                    "repeated",
                    "info",
                    f"{count_noun(len(rows), name + ' row')} {repeat} an earlier one: {preview(rows)}.",
                    rows,
                )
            )
    return findings


def _empty(study: Study) -> list[Finding]:
    findings = []
    for name, examples in study.splits().items():
        empty = row_locations(e for e in examples if _is_empty(e))
        if empty:
            done = "They stay in the test set." if name == "test" else "They are dropped."
            message = (
                f"{count_noun(len(empty), name + ' row')} without text: {preview(empty)}. {done}"
            )
            findings.append(Finding("empty", "warning", message, empty))
    return findings


def _labels(study: Study) -> list[Finding]:
    train = _counts(study, study.train)
    present = [label for label in study.labels if train[label]]
    findings = _unseen(study, present)
    if len(present) < 2:
        return [
            Finding(
                "one-class",
                "error",
                f"only one label ('{present[0]}') in all {len(study.train):,} training rows: there "
                "is nothing to tell apart. Is data.label the right column?",
            ),
            *findings,
        ]
    missing = [label for label in present if not any(e.target == label for e in study.test)]
    if missing:
        findings.append(
            Finding(
                "untested-label",
                "warning",
                f"no test row has label {', '.join(map(repr, missing))}: nothing can be said of "
                "it.",
            )
        )
    for several in label_spelling_variants(study.labels)[:MAX_ROWS_SHOWN]:
        first = sorted(several, key=lambda label: -train[label])
        rest = [label for label in study.labels if label not in several]
        findings.append(
            Finding(
                "alike-labels",
                "warning",
                f"labels {', '.join(map(repr, first))} differ in case, spaces or "
                f"hyphens alone. If they are one: {suggest_label_merge(first, rest)}",
            )
        )
    few = {label: train[label] for label in present if train[label] < FEW_ROWS}
    if few:
        named = ", ".join(f"'{label}' ({n})" for label, n in list(few.items())[:MAX_ROWS_SHOWN])
        others = (
            f" and {len(few) - MAX_ROWS_SHOWN} more labels" if len(few) > MAX_ROWS_SHOWN else ""
        )
        findings.append(Finding("few-rows", "warning", f"few training rows for {named}{others}."))
    most, least = max(present, key=lambda k: train[k]), min(present, key=lambda k: train[k])
    if train[most] > IMBALANCE_RATIO * train[least]:
        findings.append(
            Finding(
                "imbalance",
                "warning",
                f"'{most}' has {train[most]:,} training rows, '{least}' {train[least]:,}: "
                "read balanced accuracy and macro-F1, not accuracy alone.",
            )
        )
    return findings


def _unseen(study: Study, present: list[str]) -> list[Finding]:
    findings = []
    later: tuple[SplitName, ...] = ("test", "validation")
    for name in later:
        rows = [e for e in study.splits()[name] if e.target not in present]
        if rows:
            labels = ", ".join(repr(label) for label in sorted({str(e.target) for e in rows}))
            findings.append(
                Finding(
                    "unseen-label",
                    "error" if name == "test" else "warning",
                    f"label {labels} in {name} ({preview(row_locations(rows))}) but in no training row. "
                    f"Training labels: {', '.join(map(repr, present[:12]))}",
                    row_locations(rows),
                )
            )
    return findings


def _damage(study: Study) -> list[Finding]:
    findings = []
    rows: dict[str, list[str]] = defaultdict(list)
    for examples in study.splits().values():
        for example in examples:
            for kind in text_damage(" ".join(example.inputs.values())):
                rows[kind].append(example.source)
    for kind, places in sorted(rows.items()):
        findings.append(
            Finding(
                "damage",
                "warning",
                f"{count_noun(len(places), 'row')} with {kind}: {preview(places)}.",
                places,
            )
        )
    return findings


def _counts(study: Study, examples: Iterable[Example]) -> dict[str, int]:
    found = Counter(e.stratum for e in examples)
    return {stratum: found[stratum] for stratum in study.strata()}


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: ("error", "warning", "info").index(f.severity))
