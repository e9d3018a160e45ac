"""Texts for pretraining that hold test or validation rows: equal, nearly, or as a part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prooftune.data.audit import duplicates
from prooftune.data.audit.findings import Finding, count_noun, preview
from prooftune.data.normalization import example_dedup_key, near_key
from prooftune.data.unlabelled_texts import UnlabelledText
from prooftune.types import CONTEXT, Example, Study
from prooftune.utils.disk_list import DiskBackedList

Leak = Literal["error", "drop", "allow"]
EvaluationSplit = Literal["test", "validation"]

PART_WORDS = 8
"""Rows of at least this many words are also searched inside longer texts; shorter ones occur there
by chance."""


@dataclass(frozen=True, slots=True)
class PretrainingAudit:
    """What the check found.

    Attributes:
        findings: errors and warnings.
        leaked: indices of the texts that hold test or validation rows.
    """

    findings: list[Finding]
    leaked: list[int]


def audit_pretraining(
    texts: Sequence[UnlabelledText],
    study: Study,
    name: str,
    leak: Leak,
    near_duplicates: float | None,
) -> PretrainingAudit:
    """Compare texts with the test and validation rows of a study.

    Questions are compared without their contexts, since documents may be pretrained on, as they may
    be retrieved.

    Args:
        texts: to pretrain on.
        study: its rows.
        name: the variant, for messages.
        leak: what to do about texts that hold test rows.
        near_duplicates: Jaccard similarity of near-copies (``audit.near_duplicates``).
    """
    rows: Mapping[EvaluationSplit, Sequence[Example]] = {
        "test": DiskBackedList(map(_without_context, study.test)),
        "validation": DiskBackedList(map(_without_context, study.validation)),
    }
    # The same normalisation on both sides: case and punctuation do not hide a copy.
    as_examples = DiskBackedList(Example("", {"text": t.text}) for t in texts)
    # On disk: texts may be many more than rows.
    keys = {"pretraining": DiskBackedList(map(example_dedup_key, as_examples))}
    near = {"pretraining": DiskBackedList(map(near_key, as_examples))}
    for split, examples in rows.items():
        keys[split] = DiskBackedList(map(example_dedup_key, examples))
        near[split] = DiskBackedList(map(near_key, examples))
    similar = (
        duplicates.find_near_duplicates(
            near, [("pretraining", s) for s in rows], near_duplicates, keys
        )
        if near_duplicates is not None
        else {}
    )
    findings: list[Finding] = []
    leaked: set[int] = set()
    for split, examples in rows.items():
        # A text that nearly equals a row is found by similarity; one that contains it among other
        # words is not, and is searched for.
        exact = dict(find_parts(keys["pretraining"], keys[split]))
        # A text that holds a row word for word is counted once, as that.
        pairs = {**dict(similar.get(("pretraining", split), [])), **exact}
        if not pairs:
            continue
        leaked |= pairs.keys()
        sources = [f"{texts[i].source} = {examples[j].source}" for i, j in sorted(pairs.items())]
        findings.append(_finding(name, split, sources, len(exact), leak))
    return PretrainingAudit(findings, sorted(leaked))


def find_parts(texts: Sequence[str], rows: Sequence[str]) -> list[tuple[int, int]]:
    """Texts that equal a row, or in which all its words occur one after another.

    Args:
        texts, rows: normalised words (`normalization.dedup_key`). Rows of fewer than `PART_WORDS`
            words must equal the text.

    Returns:
        (index of a text, index of the first row found in it), in order.
    """
    whole: dict[str, int] = {}
    by_start: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for j, row in enumerate(rows):
        if row:
            # Texts are looked up instead of compared: rows times texts would be too many pairs.
            whole.setdefault(row, j)
            words = tuple(row.split(" ", PART_WORDS))
            if len(words) >= PART_WORDS:
                by_start[words[:PART_WORDS]].append(j)
    matches = []
    for i, text in enumerate(texts):
        match = whole.get(text)
        if match is None and by_start:
            match = _part(text, rows, by_start)
        if match is not None:
            matches.append((i, match))
    return matches


def _part(
    text: str, rows: Sequence[str], by_start: Mapping[tuple[str, ...], Sequence[int]]
) -> int | None:
    words = text.split(" ")
    # Spaces at both ends, so that a row does not begin or end inside a word.
    padded = f" {text} "
    for start in range(len(words) - PART_WORDS + 1):
        # The first words decide; only then are whole texts compared.
        for j in by_start.get(tuple(words[start : start + PART_WORDS]), ()):
            if f" {rows[j]} " in padded:
                return j
    return None


def _without_context(example: Example) -> Example:
    if example.references is None:
        return example
    inputs = {name: text for name, text in example.inputs.items() if name != CONTEXT}
    return replace(example, inputs=inputs, references=None)


def _finding(
    name: str, split: EvaluationSplit, sources: list[str], exact: int, leak: Leak
) -> Finding:
    count = len(sources)
    near = count - exact
    parts = [f"{exact:,} of them word for word"] if exact and near else []
    message = (
        f"variants.{name}.pretrain: {count_noun(count, 'text')} {'holds' if count == 1 else 'hold'}"
        f" {split} rows, {'word for word' if not near else ', '.join([*parts, f'{near:,} nearly'])}"
        f": {preview(sources)}"
    )
    if leak == "drop":
        return Finding("pretrain-leak", "info", f"{message}. Left out.", sources)
    # Validation rows choose a checkpoint and no verdict, hence a warning.
    if leak == "error" and split == "test":
        return Finding(
            "pretrain-leak",
            "error",
            f"{message}. Remove them, or set pretrain.leak: drop to leave them out (allow keeps "
            "them: the model then has read test texts, though not their labels)",
            sources,
        )
    return Finding("pretrain-leak", "warning", f"{message}.", sources)
