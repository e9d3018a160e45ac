"""Audit checks for duplicates: contamination between splits, conflicting labels, repeated rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from prooftune.data.audit import duplicates
from prooftune.data.audit.findings import Finding, count_noun, preview
from prooftune.data.normalization import near_key
from prooftune.recipe import Audit
from prooftune.types import SplitName, Study
from prooftune.utils.disk_list import DiskBackedList

SplitKeys = dict[SplitName, Sequence[str]]
"""Split -> dedup key of every example."""

# Rows are dropped from the first of a pair, so that the test set stays as given.
_SPLIT_PAIRS: tuple[tuple[SplitName, SplitName], ...] = (
    ("train", "test"),
    ("validation", "test"),
    ("train", "validation"),
)


_ALIKE = (
    "These are most of the rows: if the texts are alike but no copies, as if made from a template, "
    "set audit.near_duplicates: null."
)


def find_leakage(
    study: Study, keys: SplitKeys, settings: Audit
) -> tuple[list[Finding], dict[str, set[str]]]:
    """Find rows of one split that also occur in a later one, exactly or nearly.

    Returns:
        The findings, and split -> ids of its rows that also occur in a later split.
    """
    splits, findings = study.splits(), []
    leaked_ids: dict[str, set[str]] = defaultdict(set)
    near_duplicates = {}
    if settings.near_duplicates is not None:
        near_keys: SplitKeys = {
            name: DiskBackedList(near_key(e) for e in examples) for name, examples in splits.items()
        }
        # Parts that were cut from near-copies of each other hold near-copies by construction.
        parts = ("train", *study.templated)
        compared = [p for p in _SPLIT_PAIRS if not (p[0] in parts and p[1] in study.templated)]
        near_duplicates = duplicates.find_near_duplicates(
            near_keys, compared, settings.near_duplicates, keys
        )
    for first, second in _SPLIT_PAIRS:
        exact = duplicates.find_exact_duplicates(keys[first], keys[second])
        # Each row of `first` is paired with one copy only, but `second` can hold several.
        exact_keys = {keys[second][j] for _, j in exact}
        num_copies = sum(key in exact_keys for key in keys[second])
        near = near_duplicates.get((first, second), [])
        for kind, pairs, num_others in (
            ("exact", exact, num_copies),
            ("near", near, len({j for _, j in near})),
        ):
            if pairs:
                leaked_ids[first] |= {splits[first][i].id for i, _ in pairs}
                rows = [f"{splits[first][i].source} = {splits[second][j].source}" for i, j in pairs]
                finding = _leak_finding(kind, first, second, rows, num_others, settings)
                if kind == "near" and 2 * len(pairs) > len(splits[first]):
                    finding = replace(finding, message=f"{finding.message} {_ALIKE}")
                across = sum(
                    splits[first][i].language != splits[second][j].language for i, j in pairs
                )
                findings.append(_with_languages(finding, across))
    findings += translation_leaks(study)
    return findings, dict(leaked_ids)


def _with_languages(finding: Finding, across: int) -> Finding:
    """Name the pairs whose rows are given as two languages: a text that is the same in both is
    mostly boilerplate, or a row in the wrong file."""
    if not across:
        return finding
    return replace(
        finding,
        message=f"{finding.message} {across:,} of these pairs are rows of two languages with the "
        "same text: boilerplate, or a row in the wrong language.",
    )


def translation_leaks(study: Study) -> list[Finding]:
    """Rows of two splits and two languages that belong together by their group.

    A translation shares no words with its original, so that only the data can name it: rows of
    parallel data have a group (the document's or sentence's number).
    """
    findings = []
    for first, second in _SPLIT_PAIRS:
        languages: dict[str, set[str]] = defaultdict(set)
        for example in study.splits()[second]:
            if example.group and example.language:
                languages[example.group].add(example.language)
        rows = [
            e.source
            for e in study.splits()[first]
            if e.group and e.language and languages.get(e.group, set()) - {e.language}
        ]
        if rows:
            findings.append(
                Finding(
                    "translation-leak",
                    "warning",
                    f"{count_noun(len(rows), first + ' row')} "
                    f"{'has' if len(rows) == 1 else 'have'} the group of a {second} row in "
                    f"another language ({preview(rows)}): a translation of a {second} text may be "
                    "trained on. Put both into one split: data.splitting.method: grouped, with one "
                    "file or file list for each language.",
                    rows,
                )
            )
    return findings


def _leak_finding(
    kind: str, first: str, second: str, rows: list[str], num_others: int, settings: Audit
) -> Finding:
    code = f"{kind}-leak"
    single = len(rows) == 1
    verb = "is" if single else "are"
    if kind == "exact":
        duplicate = "an exact duplicate" if single else "exact duplicates"
    else:
        threshold = f"(Jaccard similarity of at least {settings.near_duplicates:g})"
        duplicate = f"{'a near-duplicate' if single else 'near-duplicates'} {threshold}"
    message = (
        f"{count_noun(len(rows), first + ' row')} {verb} {duplicate} of "
        f"{count_noun(num_others, second + ' row')} ({first}-{second} contamination): "
        f"{preview(rows)}"
    )
    if settings.leak == "drop":
        return Finding(code, "info", f"{message}. Dropped from {first}.", rows)
    if second == "test" and settings.leak == "error":
        return Finding(
            code,
            "error",
            f"{message}. Remove them, or set audit.leak: drop to remove them from {first} "
            "(audit.leak: allow keeps them; the scores are then inflated)",
            rows,
        )
    return Finding(code, "warning", f"{message}.", rows)


def find_conflicting_labels(study: Study, keys: SplitKeys) -> list[Finding]:
    """Find texts with more than one label, in any split: a label is wrong, or labels overlap."""
    sources_by_label: dict[str, dict[str, str]] = defaultdict(dict)
    # Positions in the concatenation of all splits; shifted to the start of each split in turn.
    positions = duplicates.duplicate_indices(chain.from_iterable(keys.values()))
    for name, examples in study.splits().items():
        for i in (position for position in positions if 0 <= position < len(examples)):
            if keys[name][i]:
                labels = sources_by_label[keys[name][i]]
                labels.setdefault(examples[i].target or "", examples[i].source)
        positions = [position - len(examples) for position in positions]
    rows = [
        " / ".join(f"{source} ({label})" for label, source in labels.items())
        for labels in sources_by_label.values()
        if len(labels) > 1
    ]
    if not rows:
        return []
    verb = "have" if len(rows) != 1 else "has"
    message = f"{count_noun(len(rows), 'text')} {verb} conflicting labels: {preview(rows)}."
    return [Finding("contradiction", "warning", message, rows)]


def find_repeated_rows(study: Study, keys: SplitKeys) -> list[Finding]:
    """Find rows that repeat an earlier row of the same split."""
    findings = []
    for name, examples in study.splits().items():
        first_source: dict[str, str] = {}
        rows = []
        for i in duplicates.duplicate_indices(keys[name]):
            key, source = keys[name][i], examples[i].source
            if key and key in first_source:
                rows.append(f"{source} = {first_source[key]}")
            first_source.setdefault(key, source)
        if rows:
            verb = "duplicate" if len(rows) != 1 else "duplicates"
            message = (
                f"{count_noun(len(rows), name + ' row')} {verb} an earlier row: {preview(rows)}."
            )
            findings.append(Finding("repeated", "info", message, rows))
    return findings
