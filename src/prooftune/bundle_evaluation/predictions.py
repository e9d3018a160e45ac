"""A bundle's predictions on labelled rows, in the form in which a study's variants are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prooftune.bundle.classifier import Classifier, LabelPrediction
from prooftune.bundle.qa import QAPrediction, QuestionAnswerer
from prooftune.recipe import Task
from prooftune.types import CONTEXT, Example, Prediction, VariantResult
from prooftune.utils.words import normalize_words


def predict_rows(
    bundle: Classifier | QuestionAnswerer,
    examples: Sequence[Example],
    labels: Sequence[str],
    name: str,
    folder: Path,
) -> tuple[VariantResult, list[bool | None]]:
    """Predict every example, as `predict` and `serve` would.

    Args:
        bundle: the loaded bundle.
        examples: the examples; more fields than the bundle's are ignored.
        labels: the bundle's labels, in the order of the probabilities to return.
        name: name of the result.
        folder: the bundle's folder.

    Returns:
        The predictions as test predictions of a variant, with probabilities after temperature
        scaling and answers after the no-answer threshold; and whether the bundle abstains on each
        row (None without a threshold).
    """
    inputs = [e.inputs for e in examples]
    if isinstance(bundle, Classifier):
        labelled = bundle.predict(inputs)
        test = [_from_label(e, p, labels) for e, p in zip(examples, labelled, strict=True)]
        abstained = [p.abstained for p in labelled]
    else:
        task = bundle.manifest["task"]
        answers = bundle.predict(inputs)
        test = [_from_answer(e, p, task) for e, p in zip(examples, answers, strict=True)]
        abstained = [None] * len(test)
    # As a tuned variant, whatever it is: of two such `pairs` makes a comparison.
    return VariantResult(name, "tuned", test, [], {}, folder), abstained


def _from_label(example: Example, prediction: LabelPrediction, labels: Sequence[str]) -> Prediction:
    log_probs: tuple[float, ...] = ()
    if prediction.probabilities:
        probabilities = np.array([prediction.probabilities[label] for label in labels])
        # A probability of 0 becomes -inf, which `metrics.LOG_FLOOR` bounds.
        with np.errstate(divide="ignore"):
            log_probs = tuple(np.log(probabilities).tolist())
    return Prediction(
        example.id,
        prediction.label,
        valid=prediction.labels is not None or prediction.label in labels,
        log_probs=log_probs,
        prompt_tokens=prediction.prompt_tokens,
        truncated_tokens=prediction.truncated_tokens,
    )


def _from_answer(example: Example, prediction: QAPrediction, task: Task) -> Prediction:
    answer = normalize_words(prediction.answer)
    context = normalize_words(example.inputs.get(CONTEXT, ""))
    return Prediction(
        example.id,
        prediction.answer,
        # Spaces around both, so that only whole words match.
        valid=task != "extractive-qa" or not answer or f" {answer} " in f" {context} ",
        raw=prediction.answer,
        prompt_tokens=prediction.prompt_tokens,
        truncated_tokens=prediction.truncated_tokens,
        generated_tokens=prediction.generated_tokens,
        unknown_citations=prediction.unknown_citations,
    )
