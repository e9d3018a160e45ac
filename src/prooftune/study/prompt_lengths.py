"""Prompt lengths in tokens, for the data audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prooftune.data.audit.label_sets import joined_labels
from prooftune.errors import UsageError
from prooftune.recipe import Recipe
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.types import Example, Study
from prooftune.variants.context import VariantContext
from prooftune.variants.forgetting import general_text


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Counts tokens; implements `data.prepare.TokenCounter`.

    Attributes:
        encoders: render the prompts of the recipe's own template, one for each tokenizer.
        english: text with which other languages are compared.
    """

    encoders: Sequence[PromptEncoder]
    english: str

    def __call__(self, examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
        return (max(encoder.prompt_length(e.inputs) for encoder in self.encoders) for e in examples)

    def count_text(self, text: str) -> int:
        """Tokens of a text by the tokenizer of the first model."""
        return len(self.encoders[0].tokenize_text(text))


def prompt_length_counter(recipe: Recipe, study: Study) -> PromptLengths | None:
    """Counts prompts in tokens for the audit. With several base models, each prompt is counted by
    the tokenizer that gives it the most tokens. None if no variant uses a language model.

    Raises:
        UsageError: the prompt leaves no room for a text.
    """
    contexts = [VariantContext(view, study, Path()) for view in recipe.base_models().values()]
    if not contexts:
        return None
    try:
        encoders = {
            context.model_folder: context.encoder(context.rendering()) for context in contexts
        }
    except UsageError as error:
        # Cells that no separator splits are long labels, which may be what leaves no room. This
        # comes before the audit, whose warning would come too late.
        joined = joined_labels(study) if recipe.task == "multilabel" else []
        raise UsageError(" Also: ".join([str(error), *(f.message for f in joined)])) from error
    english, _ = general_text(None, Path())
    return PromptLengths([*encoders.values()], english)
