"""How an exported artefact is asked, and what of its answers is compared: by the bundle's facts,
without our engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prooftune.bundle.golden import GoldenRow, max_new_tokens
from prooftune.bundle.manifest import Manifest
from prooftune.evaluation.answers.squad import f1
from prooftune.exporters.ollama import max_label_tokens
from prooftune.exporters.runtimes import Floats, Runtime
from prooftune.tasks.citations import parse_citations
from prooftune.tasks.classification import parse_label


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What an artefact says to one golden row, and how far it is from what the bundle said.

    Attributes:
        output: label or answer; empty where no label was written.
        agrees: whether it is the bundle's.
        differences: of every label's log-probability; or of the golden answer's, by token.
        quality: how good the answer is, 0 to 1: right or wrong, or the overlap of words; None where
            no target is known.
        before: that of the bundle's.
        tokens: how many tokens of the bundle's free text the artefact too finds the likeliest, each
            behind those before it, and how many there are; None where labels are compared.
    """

    output: str
    agrees: bool
    differences: tuple[float, ...]
    quality: float | None
    before: float | None
    tokens: tuple[int, int] | None = None


def tokenize_by_part(runtime: Runtime, manifest: Manifest, row: GoldenRow) -> list[int]:
    """The prompt as the bundle's card says: fixed parts are ids, every text is tokenised by itself."""
    ids: list[int] = []
    for part in manifest["tokens"]["prompt"]:
        ids += part if isinstance(part, list) else runtime.tokenize(row.inputs[part], special=False)
    return ids


def scores_labels(manifest: Manifest) -> bool:
    """Whether labels are compared by their log-probabilities; otherwise the model writes."""
    return bool(manifest["labels"]) and (
        manifest["objective"] == "head" or manifest["scoring"]["method"] == "likelihood"
    )


def ask(
    runtime: Runtime,
    manifest: Manifest,
    row: GoldenRow,
    ids: Sequence[int],
    *,
    written: bool = False,
) -> GoldenResult:
    """Ask for one row.

    Args:
        runtime: the loaded artefact.
        manifest: the content of ``bundle.json``.
        row: the golden row.
        ids: its prompt.
        written: whether the label counts that the model writes, as in programs that can do nothing
            else.
    """
    if not scores_labels(manifest):
        return _answered(runtime, manifest, row, ids)
    found = _label_log_probs(runtime, manifest, ids)
    differences = tuple(abs(float(a - b)) for a, b in zip(found, row.log_probs, strict=True))
    shift = np.array(row.shift or (0.0,))
    before = manifest["labels"][int(np.argmax(np.array(row.log_probs) + shift))]
    output = manifest["labels"][int(np.argmax(found + shift))]
    if written:
        said = runtime.write(ids, manifest["tokens"]["stop"], max_label_tokens(manifest))
        output = parse_label(_text(runtime, manifest, said), manifest["labels"]) or ""
    right = (
        None if row.target is None else (float(output == row.target), float(before == row.target))
    )
    return GoldenResult(output, output == before, differences, *(right or (None, None)))


def _label_log_probs(runtime: Runtime, manifest: Manifest, ids: Sequence[int]) -> Floats:
    """Log-probabilities [labels] that sum to 1 in probability."""
    if manifest["objective"] == "head":
        return runtime.classes(ids)
    labels = list(manifest["tokens"]["labels"].values())
    first = runtime.log_probs(ids, 1)[0] if any(len(label) == 1 for label in labels) else None
    sums = []
    for label in labels:
        rows = (
            runtime.log_probs([*ids, *label[:-1]], len(label))
            if first is None or len(label) > 1
            else first[None]
        )
        each = [float(row[token]) for row, token in zip(rows, label, strict=True)]
        sums.append(sum(each) / (len(each) if manifest["scoring"]["normalize"] == "length" else 1))
    scores = np.array(sums)
    found: Floats = scores - np.logaddexp.reduce(scores)
    return found


def _answered(
    runtime: Runtime, manifest: Manifest, row: GoldenRow, ids: Sequence[int]
) -> GoldenResult:
    text = _text(
        runtime, manifest, runtime.write(ids, manifest["tokens"]["stop"], max_new_tokens(manifest))
    )
    differences: tuple[float, ...] = ()
    tokens: tuple[int, int] | None = None
    if row.answer_ids and row.answer_log_prob is not None:
        rows = runtime.log_probs([*ids, *row.answer_ids[:-1]], len(row.answer_ids))
        total = sum(float(each[token]) for each, token in zip(rows, row.answer_ids, strict=True))
        differences = (abs(total - row.answer_log_prob) / len(row.answer_ids),)
        tokens = int((rows.argmax(axis=1) == np.array(row.answer_ids)).sum()), len(row.answer_ids)
    if manifest["labels"]:
        output, before = (
            parse_label(text, manifest["labels"]) or "",
            parse_label(row.answer, manifest["labels"]) or "",
        )
        right = (
            None
            if row.target is None
            else (float(output == row.target), float(before == row.target))
        )
        return GoldenResult(output, output == before, differences, *(right or (None, None)))
    quality, usual = (
        (None, None)
        if row.references is None
        else (_overlap(text, row, manifest), _overlap(row.answer, row, manifest))
    )
    return GoldenResult(text, text == row.answer, differences, quality, usual, tokens)


def _text(runtime: Runtime, manifest: Manifest, ids: Sequence[int]) -> str:
    stop = manifest["tokens"]["stop"]
    kept = list(ids[: list(ids).index(stop)]) if stop in ids else list(ids)
    return runtime.decode(kept).strip()


def _overlap(text: str, row: GoldenRow, manifest: Manifest) -> float:
    answer, _ = parse_citations(text)
    says_none = answer.strip().casefold() == manifest["answering"]["no_answer"].casefold()
    return f1("" if says_none else answer, row.references or ())
