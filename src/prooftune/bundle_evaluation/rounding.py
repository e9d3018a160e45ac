"""Why a row's answer can differ between two batches: the same rows in float32, and how close the
two answers were.

Floating-point addition is not associative, and the order of a matrix product's sums depends on the
number of rows (Goldberg 1991, ACM Computing Surveys 23:5; for batches of language models: He 2025,
"Defeating nondeterminism in LLM inference"). bfloat16 has 8 significant bits, so that logits
between 16 and 32 are multiples of 1/8. Two tokens closer than that change places, and the rest of a
generated answer follows from the other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from prooftune.bundle import golden
from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.language_model import LanguageModelClassifier
from prooftune.bundle.qa import QAPrediction, QuestionAnswerer
from prooftune.bundle_evaluation.measured_table import output_of
from prooftune.engine.precision import autocast

LanguageModelBundle = LanguageModelClassifier | QuestionAnswerer
BundlePrediction = LabelPrediction | QAPrediction


class RoundingFacts(TypedDict):
    """Rows whose answers differ between single rows and batches, computed again in float32.

    ``n``: number of these rows. ``same``: those with one float32 answer both ways. ``sequential``
    and ``batched``: those where that answer is the one of the single row, of the batch. ``gaps``:
    differences of the two alternatives' float32 log-probabilities in nats, one for each row where
    it is defined: of two labels, or of two answers' first tokens that differ.
    """

    n: int
    same: int
    sequential: int
    batched: int
    gaps: list[float]


def check_rounding(
    folder: Path,
    inputs: Sequence[Mapping[str, str]],
    sequential: Sequence[str],
    batched: Sequence[str],
) -> RoundingFacts | None:
    """Compute the rows with different answers again in float32, one at a time and in batches.

    Args:
        folder: a bundle of a language model.
        inputs: all rows, since batches are made of all of them.
        sequential, batched: their answers, in the bundle's own precision. If that is float32,
            `float32_differences` needs no second computation.

    Returns:
        None if the bundle cannot be loaded in float32: its weights are quantized, or memory does
        not suffice.
    """
    # Before the weights are loaded, which takes minutes for a large model.
    if not golden.loads_in_float32(folder):
        return None
    bundle = golden.load_float32(folder)
    in_batch = bundle.predict(inputs)
    alone = {
        i: bundle.predict([inputs[i]], progress=False)[0] for i in _differing(sequential, batched)
    }
    return _rounding_facts(bundle, inputs, (sequential, batched), alone, in_batch)


def float32_differences(
    bundle: LanguageModelBundle,
    inputs: Sequence[Mapping[str, str]],
    sequential: Sequence[BundlePrediction],
    batched: Sequence[BundlePrediction],
) -> RoundingFacts | None:
    """The facts of a bundle whose own precision is float32, from the predictions that it has made.

    Args:
        bundle: the loaded bundle.
        inputs: all rows.
        sequential, batched: their predictions, one row at a time and in batches.

    Returns:
        None if the bundle's weights are quantized: float32 is then the precision of its
        activations alone.
    """
    if bundle.manifest["quantization"]:
        return None
    answers = [output_of(p) for p in sequential], [output_of(p) for p in batched]
    alone = {i: sequential[i] for i in _differing(*answers)}
    return _rounding_facts(bundle, inputs, answers, alone, batched)


def _differing(sequential: Sequence[str], batched: Sequence[str]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(sequential, batched, strict=True)) if a != b]


def _rounding_facts(
    bundle: LanguageModelBundle,
    inputs: Sequence[Mapping[str, str]],
    answers: tuple[Sequence[str], Sequence[str]],
    alone: Mapping[int, BundlePrediction],
    in_batch: Sequence[BundlePrediction],
) -> RoundingFacts:
    """The facts from float32 predictions.

    Args:
        bundle: in float32.
        inputs: all rows.
        answers: sequential and batched answers, in the bundle's own precision.
        alone: row number -> float32 prediction of the single row, for rows with two answers.
        in_batch: float32 predictions of all rows in batches.
    """
    sequential, batched = answers
    facts: RoundingFacts = {
        "n": len(alone),
        "same": 0,
        "sequential": 0,
        "batched": 0,
        "gaps": [],
    }
    for i, prediction in alone.items():
        answer = output_of(prediction)
        if answer == output_of(in_batch[i]):
            facts["same"] += 1
            facts["sequential"] += answer == sequential[i]
            facts["batched"] += answer == batched[i]
        gap = _gap(bundle, inputs[i], prediction, sequential[i], batched[i])
        if gap is not None:
            facts["gaps"].append(gap)
    return facts


def rounding_sentences(facts: RoundingFacts | None, dtype: str) -> list[str]:
    """What the figures mean, for people.

    Args:
        facts: None if float32 was not computed.
        dtype: name of the bundle's own precision.
    """
    why = (
        f"Answers differ because a batch adds numbers in another order than a single row, which "
        f"{dtype} rounds differently; where two tokens are nearly equally likely, this decides."
    )
    if facts is None:
        return [why, "Whether float32 gives one answer was not checked: it does not fit here."]
    n, same = facts["n"], facts["same"]
    share = f"all {n:,}" if same == n else f"{same:,}"
    rows = "of these rows" if same == n else f"of these {n:,} rows"
    sentences = [why]
    if same:
        sentences.append(
            f"In float32, {share} {rows} have one answer both ways: the single row's for "
            f"{facts['sequential']:,}, the batch's for {facts['batched']:,}, a third one for "
            f"{same - facts['sequential'] - facts['batched']:,}."
        )
    if facts["gaps"]:
        sentences.append(
            f"Where the answers part, float32's log-probabilities of the two differ by "
            f"{np.median(facts['gaps']):.3f} nats (median; at most {max(facts['gaps']):.3f})."
        )
    if same < n:
        left = f"{n - same:,} rows have" if n - same > 1 else "1 row has"
        sentences.append(
            f"{left} two answers even in float32. Please report this if the difference above "
            "exceeds 0.01 nats: then it is not rounding."
        )
    if dtype != "float32":
        sentences.append(
            "Float32's answer is the closest to exact arithmetic; neither a single row nor a batch "
            f"is more correct in {dtype}. model.dtype=float32 in the recipe avoids the difference."
        )
    return sentences


def _gap(
    bundle: LanguageModelBundle,
    row: Mapping[str, str],
    prediction: BundlePrediction,
    first: str,
    second: str,
) -> float | None:
    """How much the log-probabilities of two answers differ where they part, in nats."""
    if isinstance(prediction, LabelPrediction):
        # Generated labels may be none of the labels, and have no probabilities.
        probabilities = prediction.probabilities or {}
        if not {first, second} <= set(probabilities):
            return None
        return abs(float(np.log(probabilities[first]) - np.log(probabilities[second])))
    [example] = bundle.examples([row])
    windows = bundle.encoder.sliding_windows(example.inputs)
    # Of several windows the most confident one answers; "no answer" is decided by a threshold.
    if len(windows) > 1 or not (first and second):
        return None
    encoder = bundle.encoder
    ids = [[*encoder.encode_answer(text), encoder.stop_token_id] for text in (first, second)]
    parting = next((i for i, (a, b) in enumerate(zip_longest(*ids)) if a != b), None)
    # Different texts of the same tokens: the tokenizer normalizes.
    if parting is None:
        return None
    prompt = [*encoder.prefix, *windows[0].token_ids, *ids[0][:parting]]
    with torch.inference_mode(), autocast(bundle.model):
        logits = bundle.model(input_ids=torch.tensor([prompt], device=bundle.model.device)).logits
    a, b = (float(logits[0, -1, answer[parting]]) for answer in ids)
    return abs(a - b)
