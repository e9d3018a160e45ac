"""The interface of a task: how examples are predicted, trained on, and scored one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.recipe import Recipe
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.tasks.rendering import TokenPair
from prooftune.types import Example, Prediction
from prooftune.utils.label_sets import parse_label_set, set_f1

TokenPairs = Iterator[TokenPair]


@dataclass(frozen=True, slots=True)
class TaskAdapter:
    """A task with the settings of one recipe.

    Attributes:
        predict: (model, encoder, examples, head, progress bar text) -> predictions, in order.
        training_pairs: (examples, encoder) -> token ids of every training row's prompt and target.
        quality: (prediction, example) -> score from 0 to 1: 0 or 1 for a label, F1 of the labels
            for a label set, F1 of the words for an answer.
        quality_name: ``accuracy`` or ``F1``.
        target_text: example -> its target as the model should generate it.
    """

    predict: Callable[[Any, PromptEncoder, Sequence[Example], bool, str | None], list[Prediction]]
    training_pairs: Callable[[Iterable[Example], PromptEncoder], TokenPairs]
    quality: Callable[[Prediction, Example], float]
    quality_name: str
    target_text: Callable[[Example], str]


def task_for(recipe: Recipe) -> TaskAdapter:
    """The adapter of the recipe's task."""
    if recipe.task == "classification":
        return _classification(recipe)
    if recipe.task == "multilabel":
        return _multilabel(recipe)
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


def _multilabel(recipe: Recipe) -> TaskAdapter:
    from prooftune.tasks import classification

    return TaskAdapter(
        predict=lambda model, encoder, examples, head, description: classification.predict(
            model,
            encoder,
            examples,
            recipe.scoring,
            head=head,
            several=True,
            description=description,
        ),
        # Label sets are learned by heads only (`training.rows.head_rows`).
        training_pairs=lambda examples, encoder: iter(()),
        quality=lambda prediction, example: set_f1(
            parse_label_set(prediction.output), example.targets
        ),
        quality_name="example-based F1",
        target_text=lambda example: ", ".join(example.targets) or "none",
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
