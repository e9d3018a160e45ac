"""The examples that tuning put right, and those that it broke."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prooftune.evaluation.metrics import Outcomes
from prooftune.records import Example, Prediction, Study, VariantResult

SHOWN = 25
EXCERPT = 300


def changed_examples(study: Study, results: Mapping[str, VariantResult], tests: Mapping[str, Outcomes],
                     verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """Test examples whose answer became right or wrong between the untuned model and the tuned one.

    Args:
        study: for texts and targets.
        results: predictions by variant name, as records.
        tests: the same as arrays.
        verdict: names the best tuned variant and the untuned variant it is held against.

    Returns:
        ``before``, ``after`` (variant names), ``fixed`` and ``broken``: each ``count`` and at most
        `SHOWN` ``examples``, those first of whose new answer the tuned variant is surest. None when
        there is no tuned variant or no untuned model to hold against it.
    """
    before, after = verdict.get("baseline"), verdict.get("best_tuned")
    if before is None or after is None:
        return None
    was, now = tests[before].correct, tests[after].correct
    sure = tests[after].confidence if tests[after].log_probs is not None else np.zeros(len(now))
    result: dict[str, Any] = {"before": before, "after": after}
    for name, mask in (("fixed", now & ~was), ("broken", was & ~now)):
        places = np.flatnonzero(mask)
        surest = places[np.argsort(-sure[places], kind="stable")][:SHOWN]
        result[name] = {"count": len(places), "examples": [
            {"id": study.test[i].id, "text": excerpt(study.test[i]), "target": study.test[i].target,
             "before": _said(results[before].test[i], study.labels),
             "after": _said(results[after].test[i], study.labels)} for i in surest]}
    return result


def excerpt(example: Example) -> str:
    """The inputs of an example on one line, cut at `EXCERPT` characters."""
    text = " · ".join(" ".join(part.split()) for part in example.inputs.values())
    return text if len(text) <= EXCERPT else text[:EXCERPT].rsplit(" ", 1)[0] + " …"


def _said(prediction: Prediction, labels: list[str]) -> dict[str, Any]:
    if not prediction.valid:
        return {"output": prediction.raw[:80], "valid": False, "probability": None}
    known = bool(prediction.log_probs)
    probability = float(np.exp(prediction.log_probs[labels.index(prediction.output)])) if known else None
    return {"output": prediction.output, "valid": True, "probability": probability}
