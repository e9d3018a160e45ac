"""The threshold on how much likelier "no answer" must be than an answer, chosen on validation
questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prooftune.evaluation.answers import squad
from prooftune.evaluation.intervals import auroc
from prooftune.evaluation.score_types import NoAnswerThreshold
from prooftune.types import Prediction, Study, VariantResult


def final_outputs(predictions: Sequence[Prediction], threshold: float | None) -> list[str]:
    """Answers after the threshold on how much likelier "no answer" is than the best answer (nats);
    None: as they are."""
    if threshold is None:
        return [p.output for p in predictions]
    return ["" if _no_answer(p) > threshold else p.raw for p in predictions]


def _no_answer(prediction: Prediction) -> float:
    """Log of how much likelier "no answer" is than the best answer, in nats."""
    if prediction.no_answer_log_prob is None or prediction.answer_log_prob is None:
        raise ValueError("a prediction without both log-probabilities has no such score")
    return prediction.no_answer_log_prob - prediction.answer_log_prob


def choose_threshold(
    study: Study, result: VariantResult, confidence: float
) -> NoAnswerThreshold | None:
    """The no-answer threshold, chosen by F1 on validation questions, and how F1 on test questions
    depends on it."""
    # One threshold is applied to all predictions, so all must have both log-probabilities.
    both = [*result.validation, *result.test]
    if not both or any(p.no_answer_log_prob is None for p in both):
        return None
    sides = {}
    for name, examples, predictions in (
        ("validation", study.validation, result.validation),
        ("test", study.test, result.test),
    ):
        if predictions:
            best = squad.score([p.raw for p in predictions], [e.references or () for e in examples])
            gap = np.array([_no_answer(p) for p in predictions])
            sides[name] = squad.best_threshold(
                gap, best.f1, best.has_answer, np.array([not p.raw for p in predictions])
            )
    # Without validation questions: no answer where that is likelier than the best answer.
    chosen = sides["validation"].value if "validation" in sides else 0.0
    # Two baselines for the threshold: the model's own decision, and an answer to every question.
    without = squad.score([p.output for p in result.test], [e.references or () for e in study.test])
    always = squad.score([p.raw for p in result.test], [e.references or () for e in study.test])
    separation = auroc(
        np.array([_no_answer(p) for p in result.test]), ~without.has_answer, confidence
    )
    return {
        "value": chosen,
        "validation_n": len(result.validation),
        "f1_without": float(without.f1.mean()),
        "exact_without": float(without.exact.mean()),
        "best_f1_on_test": sides["test"].score,
        "has_answer_f1_without": float(without.f1[without.has_answer].mean())
        if without.has_answer.any()
        else None,
        "has_answer_f1_always": float(always.f1[always.has_answer].mean())
        if always.has_answer.any()
        else None,
        "auroc": {"value": separation.value, "low": separation.low, "high": separation.high}
        if separation
        else None,
        "curve": [
            {"threshold": t, "f1": s}
            for t, s in zip(
                sides["test"].thresholds.tolist(), sides["test"].scores.tolist(), strict=True
            )
        ],
    }
