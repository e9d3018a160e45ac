"""Compare an artefact's outputs with the golden rows; run these through it without our engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prooftune.bundle.golden import GoldenRow, max_new_tokens
from prooftune.bundle.manifest import Manifest, label_threshold
from prooftune.evaluation.answers.squad import f1
from prooftune.exporters.ollama import max_label_tokens
from prooftune.exporters.runtimes import FloatArray, Runtime
from prooftune.tasks.citations import parse_citations
from prooftune.utils.label_parsing import parse_label
from prooftune.utils.label_sets import chosen_labels, parse_label_set, set_f1


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """An artefact's output for one golden row, compared with the bundle's.

    Attributes:
        output: label, label set (as `utils.label_sets` writes it) or answer; empty if the generated
            text names no label.
        agrees: whether it equals the bundle's output.
        differences: absolute log-probability differences in nats: of every label, or per token of
            the golden answer.
        quality: score of the output, 0 to 1: accuracy of labels, F1 of label sets, token F1 of
            answers; None without a target.
        reference: score of the bundle's output.
        tokens: (tokens of the bundle's answer that are also the artefact's argmax under teacher
            forcing, all tokens of it); None if labels are compared.
    """

    output: str
    agrees: bool
    differences: tuple[float, ...]
    quality: float | None
    reference: float | None
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ForcedAnswer:
    """An artefact's figures for the bundle's answer, fed after the prompt (teacher forcing).

    Attributes:
        log_probs: natural-log probability of each token of the answer, given those before it.
        is_argmax: whether it is the artefact's most likely token there.
    """

    log_probs: list[float]
    is_argmax: list[bool]


def tokenize_by_part(runtime: Runtime, manifest: Manifest, row: GoldenRow) -> list[int]:
    """Token ids of the prompt as in the model card; fields are tokenized separately."""
    ids: list[int] = []
    for part in manifest["tokens"]["prompt"]:
        ids += part if isinstance(part, list) else runtime.tokenize(row.inputs[part], special=False)
    return ids


def scores_labels(manifest: Manifest) -> bool:
    """Whether labels are compared by log-probability rather than by generated text."""
    return bool(manifest["labels"]) and (
        manifest["objective"] == "head" or manifest["scoring"]["method"] == "likelihood"
    )


def run_row(
    runtime: Runtime,
    manifest: Manifest,
    row: GoldenRow,
    ids: Sequence[int],
    *,
    written: bool = False,
) -> GoldenResult:
    """Run one golden row.

    Args:
        runtime: the loaded artefact.
        manifest: the bundle's manifest.
        row: the golden row.
        ids: token ids of its prompt.
        written: whether to compare the generated label, for programs that only generate (Ollama).
    """
    if not scores_labels(manifest):
        return _run_generation(runtime, manifest, row, ids)
    log_probs = _label_log_probs(runtime, manifest, ids)
    if not written:
        return compare_label_scores(manifest, row, log_probs)
    generated = runtime.generate_ids(ids, manifest["tokens"]["stop"], max_label_tokens(manifest))
    label = parse_label(_text(runtime, manifest, generated), manifest["labels"]) or ""
    return compare_label_scores(manifest, row, log_probs, label)


def compare_label_scores(
    manifest: Manifest, row: GoldenRow, log_probs: FloatArray, written: str | None = None
) -> GoldenResult:
    """Compare log-probabilities of the labels.

    Args:
        manifest: the bundle's manifest.
        row: the golden row.
        log_probs: natural-log probabilities, shape [labels]; normalised over them, unless a text
            may have several.
        written: the generated label, compared instead of the most likely one; empty if the text
            names none.
    """
    differences = tuple(abs(float(a - b)) for a, b in zip(log_probs, row.log_probs, strict=True))
    if manifest["task"] == "multilabel":
        return _compare_label_sets(manifest, row, log_probs, differences)
    # Contextual calibration only shifts the scores, so no runtime has to know of it.
    # Without calibration a zero, which numpy adds to all labels.
    shift = np.array(row.shift or (0.0,))
    reference = manifest["labels"][int(np.argmax(np.array(row.log_probs) + shift))]
    output = manifest["labels"][int(np.argmax(log_probs + shift))]
    if written is not None:
        output = written
    correctness = (
        None
        if row.target is None
        else (float(output == row.target), float(reference == row.target))
    )
    return GoldenResult(output, output == reference, differences, *(correctness or (None, None)))


def _compare_label_sets(
    manifest: Manifest, row: GoldenRow, log_probs: FloatArray, differences: tuple[float, ...]
) -> GoldenResult:
    """Compare the labels at the bundle's threshold; one label more or less is another output."""
    threshold = label_threshold(manifest)
    assert threshold is not None  # the task is multilabel
    output, reference = (
        chosen_labels(values, manifest["labels"], threshold)
        for values in (log_probs.tolist(), row.log_probs)
    )
    if row.target is None:
        return GoldenResult(output, output == reference, differences, None, None)
    target = parse_label_set(row.target)
    quality, own = (set_f1(parse_label_set(text), target) for text in (output, reference))
    return GoldenResult(output, output == reference, differences, quality, own)


def _label_log_probs(runtime: Runtime, manifest: Manifest, ids: Sequence[int]) -> FloatArray:
    """Natural-log probabilities of the labels, shape [labels]; normalized over them, unless a text
    may have several."""
    if manifest["objective"] == "head":
        return runtime.label_log_probs(ids, independent=manifest["task"] == "multilabel")
    labels = list(manifest["tokens"]["labels"].values())
    # All labels of one token share a forward pass.
    first = runtime.log_probs(ids, 1)[0] if any(len(label) == 1 for label in labels) else None
    sums = []
    for label in labels:
        rows = (
            runtime.log_probs([*ids, *label[:-1]], len(label))
            if first is None or len(label) > 1
            else first[None]
        )
        token_log_probs = [float(row[token]) for row, token in zip(rows, label, strict=True)]
        sums.append(
            sum(token_log_probs)
            / (len(token_log_probs) if manifest["scoring"]["normalize"] == "length" else 1)
        )
    # Normalised over the labels, as the golden log-probabilities are.
    scores = np.array(sums)
    log_probs: FloatArray = scores - np.logaddexp.reduce(scores)
    return log_probs


def _run_generation(
    runtime: Runtime, manifest: Manifest, row: GoldenRow, ids: Sequence[int]
) -> GoldenResult:
    text = _text(
        runtime,
        manifest,
        runtime.generate_ids(ids, manifest["tokens"]["stop"], max_new_tokens(manifest)),
    )
    forced: ForcedAnswer | None = None
    if row.answer_ids:
        # Teacher forcing: the bundle's answer is fed, so that one near-tie does not change the
        # rest.
        rows = runtime.log_probs([*ids, *row.answer_ids[:-1]], len(row.answer_ids))
        forced = ForcedAnswer(
            [float(log_probs[i]) for log_probs, i in zip(rows, row.answer_ids, strict=True)],
            [
                bool(log_probs.argmax() == i)
                for log_probs, i in zip(rows, row.answer_ids, strict=True)
            ],
        )
    return compare_text(manifest, row, text, forced)


def compare_text(
    manifest: Manifest, row: GoldenRow, text: str, forced: ForcedAnswer | None
) -> GoldenResult:
    """Compare a generated label or answer.

    Args:
        manifest: the bundle's manifest.
        row: the golden row.
        text: as generated, without the stop token.
        forced: figures of the bundle's answer after the prompt; None if the row has none.
    """
    differences: tuple[float, ...] = ()
    tokens: tuple[int, int] | None = None
    if forced and forced.log_probs and row.answer_log_prob is not None:
        count = len(forced.log_probs)
        differences = (abs(sum(forced.log_probs) - row.answer_log_prob) / count,)
        tokens = sum(forced.is_argmax), count
    if manifest["labels"]:
        output, reference = (
            parse_label(text, manifest["labels"]) or "",
            parse_label(row.answer, manifest["labels"]) or "",
        )
        correctness = (
            None
            if row.target is None
            else (float(output == row.target), float(reference == row.target))
        )
        return GoldenResult(
            output, output == reference, differences, *(correctness or (None, None))
        )
    quality, reference_quality = (
        (None, None)
        if row.references is None
        else (_overlap(text, row, manifest), _overlap(row.answer, row, manifest))
    )
    return GoldenResult(text, text == row.answer, differences, quality, reference_quality, tokens)


def _text(runtime: Runtime, manifest: Manifest, ids: Sequence[int]) -> str:
    stop = manifest["tokens"]["stop"]
    answer_ids = list(ids[: list(ids).index(stop)]) if stop in ids else list(ids)
    return runtime.decode(answer_ids).strip()


def _overlap(text: str, row: GoldenRow, manifest: Manifest) -> float:
    answer, _ = parse_citations(text)
    is_no_answer = answer.strip().casefold() == manifest["answering"]["no_answer"].casefold()
    return f1("" if is_no_answer else answer, row.references or ())
