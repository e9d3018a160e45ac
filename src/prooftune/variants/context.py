"""What every variant is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from prooftune.models import loading
from prooftune.recipe import Prompt, Recipe
from prooftune.tasks.prompts import PromptEncoder, Rendering, Shot
from prooftune.tasks.task import TaskAdapter, task_for
from prooftune.tasks.templates import default_template
from prooftune.types import CONTEXT, Example, Prediction, Study


@dataclass
class VariantContext:
    """One study on its way through the variants.

    Attributes:
        recipe: the recipe.
        study: its data.
        folder: the variant's own folder in the run.
        windowed: whether a context that is too long is read in windows; passages that were found
            are shortened, the last first.
    """

    recipe: Recipe
    study: Study
    folder: Path
    windowed: bool = True

    @property
    def fields(self) -> list[str]:
        return list(self.study.train[0].inputs)

    @cached_property
    def task_adapter(self) -> TaskAdapter:
        return task_for(self.recipe)

    @cached_property
    def model_folder(self) -> Path:
        return loading.resolve(self.recipe.model.name, self.recipe.model.revision)

    @cached_property
    def tokenizer(self) -> Any:
        return loading.load_tokenizer(self.model_folder)

    def rendering(
        self,
        prompt: Prompt | None = None,
        template: str | None = None,
        shots: tuple[Shot, ...] = (),
    ) -> Rendering:
        """The rendering of a variant: the recipe's prompt with the variant's own prompt options
        over it."""
        merged = self.recipe.prompt
        if prompt is not None:
            merged = merged.model_copy(
                update={name: getattr(prompt, name) for name in prompt.model_fields_set}
            )
        chat = merged.chat if merged.chat is not None else bool(self.tokenizer.chat_template)
        answering, answers = self.recipe.answering, self.recipe.task != "classification"
        default = default_template(self.recipe.task, self.fields, answering.no_answer)
        return Rendering(
            template=template or merged.template or default,
            labels=tuple(self.study.labels),
            system=merged.system,
            chat=chat,
            max_length=merged.max_length,
            shots=shots,
            answer_tokens=answering.max_new_tokens if answers else 0,
            windowed=CONTEXT if answers and self.windowed and CONTEXT in self.fields else None,
            overlap=answering.window_overlap if answers else 0,
        )

    def encoder(self, rendering: Rendering) -> PromptEncoder:
        return PromptEncoder(rendering, self.tokenizer, self.fields)

    def base_model(self) -> Any:
        """The untuned causal model."""
        return self.base_loader()()

    def base_loader(self) -> Callable[[], Any]:
        """What loads it, in any process."""
        return partial(
            loading.load_model,
            self.model_folder,
            self.recipe.model,
            quantization=self.recipe.quantization,
        )


@dataclass
class VariantOutput:
    """Predictions of one variant and the facts it recorded (see `records.VariantResult.details`)."""

    test: list[Prediction]
    validation: list[Prediction]
    details: dict[str, Any] = field(default_factory=dict)


def texts(examples: Sequence[Example]) -> Iterator[str]:
    """Each example's fields as one text, for methods that know no prompt."""
    return ("\n".join(example.inputs.values()) for example in examples)
