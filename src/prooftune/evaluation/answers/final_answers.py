"""The final answers of a variant, after its no-answer threshold, with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.answers import squad
from prooftune.evaluation.answers.no_answer import choose_threshold, final_outputs
from prooftune.evaluation.answers.primary import answers_primary
from prooftune.evaluation.answers.text import (
    Columns,
    answer_columns,
    measure,
    per_example,
)
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.score_types import (
    AnswerCounts,
    NoAnswerThreshold,
)
from prooftune.recipe import Recipe
from prooftune.types import Prediction, Study, VariantResult


@dataclass(frozen=True, slots=True)
class Answered:
    """The final answers of one variant.

    Attributes:
        outputs: one for each question, empty for "no answer".
        columns: their per-example columns.
        primary: the primary metric of each, [n].
        threshold: how the no-answer threshold was chosen; None where there is none.
    """

    outputs: list[str]
    columns: Columns
    primary: Floats
    threshold: NoAnswerThreshold | None


def rows_of(given: Answered, rows: NDArray[np.bool_]) -> Answered:
    """The answers to some of the questions; `rows` says of each whether it is among them, [n]."""
    return Answered(
        [output for output, there in zip(given.outputs, rows, strict=True) if there],
        replace(given.columns, values=given.columns.values[rows]),
        given.primary[rows],
        given.threshold,
    )


def answered(
    study: Study, result: VariantResult, recipe: Recipe, primary: str | None = None
) -> Answered:
    """The final answers of one variant to the test questions, after its threshold, with their
    scores.

    Args:
        study: the questions.
        result: the variant's predictions.
        recipe: the recipe.
        primary: metric of single answers; None: the one that judges the study.
    """
    primary = primary or answers_primary(study, recipe)[0]
    threshold = choose_threshold(study, result, recipe.evaluation.confidence)
    outputs = final_outputs(result.test, threshold["value"] if threshold else None)
    references = [e.references or () for e in study.test]
    columns = answer_columns(outputs, references, **_bertscore(outputs, references, recipe))
    return Answered(outputs, columns, per_example(columns, primary), threshold)


def _bertscore(
    outputs: Sequence[str], references: Sequence[Sequence[str]], recipe: Recipe
) -> dict[str, Any]:
    if recipe.answering.bertscore is None:
        return {}
    from prooftune.evaluation.answers.bertscore import bertscore

    scored = bertscore(outputs, references, recipe.answering.bertscore)
    return {"bertscore_f1": scored.f1, "bertscore_signature": scored.signature}


def validation_quality(
    study: Study, result: VariantResult, answered: Answered, primary: str
) -> float | None:
    if not result.validation:
        return None
    threshold = answered.threshold["value"] if answered.threshold else None
    outputs = final_outputs(result.validation, threshold)
    references = [e.references or () for e in study.validation]
    # Without ROUGE, METEOR and BLEU, which take far longer and would not be read.
    if primary in ("f1", "exact"):
        return float(getattr(squad.score(outputs, references), primary).mean())
    text = ("rougeL",) if primary == "rougeL_or_none" else (primary,)
    return measure(answer_columns(outputs, references, text=text))[primary]


def final_predictions(
    predictions: Sequence[Prediction], outputs: Sequence[str]
) -> list[Prediction]:
    return [
        # No answer, by the threshold, is a valid output whatever the model wrote, and cites
        # nothing.
        replace(p, output=output, valid=p.valid or not output, cited=p.cited if output else ())
        for p, output in zip(predictions, outputs, strict=True)
    ]


def answer_counts(predictions: Sequence[Prediction], outputs: Sequence[str]) -> AnswerCounts:
    """What happened on the way to the final answers."""
    n = len(predictions)
    # An answer that the threshold turned into none cites nothing.
    given = [p for p, output in zip(predictions, outputs, strict=True) if output]
    cited = sum(bool(p.cited) for p in given)
    return {
        "invalid": sum(
            bool(output) and not p.valid for p, output in zip(predictions, outputs, strict=True)
        ),
        "truncated": sum(p.truncated_tokens > 0 for p in predictions),
        "truncated_tokens": sum(p.truncated_tokens for p in predictions),
        "prompt_tokens": sum(p.prompt_tokens for p in predictions),
        "generated_tokens": sum(p.generated_tokens for p in predictions),
        "windowed": sum(p.windows > 1 for p in predictions),
        "abstained": sum(not output for output in outputs),
        "cited": cited,
        "cited_share": cited / n if n else 0.0,
        "unknown_citations": sum(p.unknown_citations for p in given),
    }
