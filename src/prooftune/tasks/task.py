"""What a task is to the rest of the study: how examples are asked, learned and judged one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.recipe import Recipe
from prooftune.tasks.prompts import PromptEncoder
from prooftune.types import Example, Prediction

TokenPairs = Iterator[tuple[list[int], list[int]]]


@dataclass(frozen=True, slots=True)
class TaskAdapter:
    """A task with the settings of one recipe.

    Attributes:
        predict: (model, encoder, examples, head, what the progress bar says) -> predictions, in
            order.
        targets: (examples, encoder) -> ids of every training row's prompt and of its target.
        quality: (prediction, example) -> how good an answer is, 0 to 1: right or wrong for a label,
            the overlap of words for an answer.
        measure: what `quality` is called.
        said: (example) -> its target as the model should write it.
    """

    predict: Callable[[Any, PromptEncoder, Sequence[Example], bool, str | None], list[Prediction]]
    training_pairs: Callable[[Iterable[Example], PromptEncoder], TokenPairs]
    quality: Callable[[Prediction, Example], float]
    quality_name: str
    target_text: Callable[[Example], str]


def task_for(recipe: Recipe) -> TaskAdapter:
    """The recipe's task."""
    if recipe.task == "classification":
        return _classification(recipe)
    return _answering(recipe)


def _classification(recipe: Recipe) -> TaskAdapter:
    from prooftune.tasks import classification

    return TaskAdapter(
        predict=lambda model, encoder, examples, head, description: classification.predict(
            model, encoder, examples, recipe.scoring, head=head, description=description
        ),
        training_pairs=classification.instruction_pairs,
        quality=lambda prediction, example: float(prediction.output == example.target),
        quality_name="accuracy",
        target_text=lambda example: example.target or "",
    )


def _answering(recipe: Recipe) -> TaskAdapter:
    from prooftune.evaluation.answers.squad import f1
    from prooftune.tasks import question_answering

    return TaskAdapter(
        predict=lambda model, encoder, examples, head, description: question_answering.predict(
            model, encoder, examples, recipe.answering, recipe.task, description=description
        ),
        training_pairs=lambda examples, encoder: question_answering.instruction_pairs(
            examples, encoder, recipe.answering, recipe.task
        ),
        quality=lambda prediction, example: f1(prediction.output, example.references or ()),
        quality_name="F1",
        target_text=lambda example: example.target or recipe.answering.no_answer,
    )
