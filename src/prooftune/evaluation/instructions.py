"""Instruction following of classifiers: what they generate when they are asked for a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.intervals import paired_proportions_interval, wilson_interval
from prooftune.evaluation.score_types.figures import Figure
from prooftune.evaluation.score_types.instructions import InstructionDifference, InstructionScores
from prooftune.evaluation.significance import holm, mcnemar
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.label_parsing import is_label_only, parse_label
from prooftune.utils.words import words

Flags = NDArray[np.bool_]
MEASURES = ("valid_label", "label_only", "extra_text", "correct", "repeats")
"""A label at the beginning; a label and nothing else; a label with other text; the right label; a
text that repeats itself."""
_REPEATED_WORDS = 4


def instruction_figures(
    study: Study,
    results: Mapping[str, VariantResult],
    baseline: str | None,
    confidence: float,
) -> InstructionScores | None:
    """Shares of generated answers that follow the instruction, and tuned against untuned.

    Args:
        study: the test examples and labels.
        results: variant -> its predictions; those with generated answers are measured.
        baseline: the untuned variant; None: no differences.
        confidence: level of the intervals (modified Wilson; Bonett-Price for differences).

    Returns:
        ``n``, ``variants`` (measure -> ``value``, ``low``, ``high``), ``differences`` (tuned minus
        untuned with McNemar's exact p-values, Holm-adjusted over all of them). None if no variant
        generated answers.
    """
    written = {
        name: rows for name, result in results.items() if (rows := _generated(study, result.test))
    }
    if not written:
        return None
    flags = {name: _flags(rows, study.labels) for name, rows in written.items()}
    n = len(next(iter(written.values())))
    pairs = [
        (name, baseline)
        for name in flags
        if baseline in flags and name != baseline and results[name].kind == "tuned"
    ]
    flagged = [
        (a, str(b), measure, flags[a][measure], flags[str(b)][measure])
        for a, b in pairs
        for measure in MEASURES
    ]
    # One family: every measure of every tuned variant.
    adjusted = holm([mcnemar(first, second).p for _, _, _, first, second in flagged])
    differences: list[InstructionDifference] = [
        {
            "a": a,
            "b": b,
            "measure": measure,
            "difference": _difference(first, second, confidence),
            "p_holm": p,
        }
        for (a, b, measure, first, second), p in zip(flagged, adjusted, strict=True)
    ]
    return {
        "n": n,
        "variants": {
            name: {measure: _share(own[measure], confidence) for measure in MEASURES}
            for name, own in flags.items()
        },
        "differences": differences,
    }


def repeats_itself(text: str) -> bool:
    """Whether some sequence of four words occurs more than once; case and punctuation are ignored.

    A sign of degenerate text that needs no judge: the 4-grams of seq-rep-4 (Welleck et al. 2020,
    arXiv 1908.04319), as a property of one answer.
    """
    tokens = words(text)
    sequences = list(zip(*(tokens[i:] for i in range(_REPEATED_WORDS)), strict=False))
    return len(set(sequences)) < len(sequences)


def _generated(study: Study, predictions: Sequence[Prediction]) -> list[tuple[Example, Prediction]]:
    return [
        (example, prediction)
        for example, prediction in zip(study.test, predictions, strict=True)
        # A classifier that scores the labels writes nothing that could follow an instruction.
        if prediction.generated_tokens
    ]


def _flags(rows: Sequence[tuple[Example, Prediction]], labels: Sequence[str]) -> dict[str, Flags]:
    parsed = [parse_label(prediction.raw, labels) for _, prediction in rows]
    valid = np.array([label is not None for label in parsed])
    only = np.array([is_label_only(prediction.raw, labels) for _, prediction in rows])
    correct = [label == example.target for label, (example, _) in zip(parsed, rows, strict=True)]
    return {
        "valid_label": valid,
        "label_only": only,
        "extra_text": valid & ~only,
        "correct": np.array(correct),
        "repeats": np.array([repeats_itself(prediction.raw) for _, prediction in rows]),
    }


def _share(flags: Flags, confidence: float) -> Figure:
    low, high = wilson_interval(int(flags.sum()), len(flags), confidence)
    return {"value": float(flags.mean()), "low": low, "high": high}


def _difference(first: Flags, second: Flags, confidence: float) -> Figure:
    interval = paired_proportions_interval(
        int((first & ~second).sum()), int((second & ~first).sum()), len(first), confidence
    )
    return {"value": interval.value, "low": interval.low, "high": interval.high}
