"""The examples that tuning put right, and those that it broke."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.score_types import (
    ChangedExamples,
    ChangedSide,
    ShownOutput,
    Verdict,
)
from prooftune.types import Example, Prediction, Study, VariantResult
from prooftune.utils.files import read_json

SHOWN = 25
EXCERPT = 300
NO_ANSWER = "(no answer)"


def changed_examples(
    study: Study,
    results: Mapping[str, VariantResult],
    right: Mapping[str, NDArray[np.bool_]],
    sure: Mapping[str, NDArray[np.float64]],
    verdict: Verdict,
) -> ChangedExamples | None:
    """Test examples whose answer became right or wrong between the untuned model and the tuned one.

    Args:
        study: for texts and targets.
        results: predictions by variant name, as records.
        right: whether each of them is right, [n].
        sure: how sure each variant was, [n].
        verdict: names the best tuned variant and the untuned variant it is held against.

    Returns:
        ``before``, ``after`` (variant names), ``fixed`` and ``broken``: each ``count`` and at most
        `SHOWN` ``examples``, those first of whose new answer the tuned variant is surest, with the
        ``sources`` that this cites. None when there is no tuned variant or no untuned model to hold
        against it.
    """
    before, after = verdict["baseline"], verdict["best_tuned"]
    if before is None or after is None:
        return None
    was, now = right[before], right[after]
    searched = any(p.retrieved for p in results[after].test)
    passages = read_json(results[after].folder / "passages.json") if searched else {}

    def side(mask: NDArray[np.bool_]) -> ChangedSide:
        indices = np.flatnonzero(mask)
        # Stable: without probabilities all confidences are 0, and examples stay in the test set's
        # order.
        surest = indices[np.argsort(-sure[after][indices], kind="stable")][:SHOWN]
        return {
            "count": len(indices),
            "examples": [
                {
                    "id": study.test[i].id,
                    "text": excerpt(study.test[i], searched),
                    "target": _target_text(study.test[i]),
                    "before": _shown_output(results[before].test[i], study.labels),
                    "after": _shown_output(results[after].test[i], study.labels),
                    "sources": [_source(passages[id_]) for id_ in results[after].test[i].cited],
                }
                for i in surest
            ],
        }

    return {
        "before": before,
        "after": after,
        "fixed": side(now & ~was),
        "broken": side(was & ~now),
    }


def excerpt(example: Example, searched: bool = False) -> str:
    """The inputs of an example on one line, cut at `EXCERPT` characters.

    Args:
        example: the example.
        searched: whether other passages than its own context were shown, which is then left out.
    """
    # A question comes before the context in which it is asked.
    parts = sorted(example.inputs.items(), key=lambda item: item[0] != "question")
    return _cut(" · ".join(part for name, part in parts if not (searched and name == "context")))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else text[:EXCERPT].rsplit(" ", 1)[0] + " …"


def _source(passage: Mapping[str, Any]) -> str:
    """Where a passage stands, and how it begins."""
    location = [
        passage["document"],
        *([f"page {passage['page']}"] if passage["page"] else []),
        *filter(None, [passage["section"]]),
    ]
    return f"{', '.join(location)}: {_cut(passage['text'])}"


def _target_text(example: Example) -> str | None:
    if example.references is None:
        return example.target
    return " / ".join(example.references) or NO_ANSWER


def _shown_output(prediction: Prediction, labels: list[str]) -> ShownOutput:
    if not labels:
        return {
            "output": prediction.output or NO_ANSWER,
            "valid": prediction.valid,
            "probability": None,
        }
    if not prediction.valid:
        return {"output": prediction.raw[:80], "valid": False, "probability": None}
    # A label set has no single probability.
    known = bool(prediction.log_probs) and prediction.output in labels
    probability = (
        float(np.exp(prediction.log_probs[labels.index(prediction.output)])) if known else None
    )
    return {"output": prediction.output, "valid": True, "probability": probability}
