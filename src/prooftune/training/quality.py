"""Quality on validation rows during training, with the scorer that evaluates the study."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from torch import nn

from prooftune.recipe import Recipe
from prooftune.recipe.metrics import QUALITY_METRICS
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.tasks.task import task_for
from prooftune.types import Example, Prediction
from prooftune.utils.label_sets import parse_label_set

SCORED_ROWS, GENERATED_ROWS = 500, 100
"""Validation rows per evaluation: fewer if the model generates text, which is slower."""

Quality = Callable[[nn.Module], dict[str, float]]


def validation_quality(
    recipe: Recipe, encoder: PromptEncoder, examples: Sequence[Example], head: bool
) -> Quality | None:
    """A function from a model to its metrics on validation rows; None if there are no rows.

    Extractive questions are scored without a no-answer threshold, which is chosen after training.

    Args:
        recipe: task, scoring and seed.
        encoder: renders the prompts.
        examples: the validation rows; at most `SCORED_ROWS`, drawn with the seed, are used.
        head: whether the model ends in a classification head.
    """
    rows = quality_rows(recipe, examples, head)
    if not rows:
        return None
    task = task_for(recipe)
    # The scorers of the final evaluation, so that the chosen checkpoint is the best by the same
    # measure.
    measure = {"classification": _labels, "multilabel": _label_sets}.get(recipe.task, _answers)

    def quality(model: nn.Module) -> dict[str, float]:
        predictions = task.predict(model, encoder, rows, head, None)
        return measure(predictions, rows, encoder)

    return quality


def quality_rows(recipe: Recipe, examples: Sequence[Example], head: bool) -> list[Example]:
    """The validation rows that are measured at every evaluation."""
    # Labels are scored without generating unless the recipe wants generation.
    generates = not recipe.has_labels or (recipe.scoring.method == "generation" and not head)
    return sample_rows(examples, GENERATED_ROWS if generates else SCORED_ROWS, recipe.seed)


def sample_rows(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """At most `count` of the examples, drawn with the seed, in their order."""
    if len(examples) <= count:
        return list(examples)
    # The same rows at every evaluation, so that evaluations can be compared.
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def _labels(
    predictions: Sequence[Prediction], rows: Sequence[Example], encoder: PromptEncoder
) -> dict[str, float]:
    return label_quality(predictions, rows, encoder.rendering.labels)


def _label_sets(
    predictions: Sequence[Prediction], rows: Sequence[Example], encoder: PromptEncoder
) -> dict[str, float]:
    return label_set_quality(predictions, rows, encoder.rendering.labels)


def label_set_quality(
    predictions: Sequence[Prediction], rows: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """Micro and macro F1 of predicted label sets, at the default threshold."""
    from prooftune.evaluation.multilabel.metrics import label_matrix, measure

    values = measure(
        label_matrix([row.targets for row in rows], labels),
        label_matrix([parse_label_set(p.output) for p in predictions], labels),
    )
    return {name: values[name] for name in QUALITY_METRICS["multilabel"]}


def label_quality(
    predictions: Sequence[Prediction], rows: Sequence[Example], labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro F1 of predicted labels."""
    from prooftune.evaluation.metrics import INVALID, Outcomes, measure

    numbers: dict[Any, int] = {label: i for i, label in enumerate(labels)}
    outcomes = Outcomes(
        np.array([numbers[row.target] for row in rows]),
        np.array([numbers[p.output] if p.valid else INVALID for p in predictions]),
        None,
        len(numbers),
    )
    scalars, _ = measure(outcomes)
    return {name: scalars[name] for name in QUALITY_METRICS["classification"]}


def _answers(
    predictions: Sequence[Prediction], rows: Sequence[Example], encoder: PromptEncoder
) -> dict[str, float]:
    from prooftune.evaluation.answers.squad import exact, f1

    pairs = [(p.output, row.references or ()) for p, row in zip(predictions, rows, strict=True)]
    return {
        "f1": fmean(f1(output, references) for output, references in pairs),
        "exact_match": fmean(exact(output, references) for output, references in pairs),
    }
