"""Prompt lengths in tokens, for the data audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prooftune.recipe import Recipe
from prooftune.types import Example, Study
from prooftune.variants.context import VariantContext


def prompt_length_counter(
    recipe: Recipe, study: Study
) -> Callable[[Sequence[Example]], Iterator[tuple[int, int]]] | None:
    """A function from examples to (tokens before truncation, truncated tokens) of their prompts.

    The prompts are those of the recipe's own template. With several base models, each prompt is
    counted by the tokenizer that gives it the most tokens. None if no variant uses a language
    model.
    """
    contexts = [VariantContext(view, study, Path()) for view in recipe.base_models().values()]
    if not contexts:
        return None
    encoders = {
        context.model_folder: context.encoder(context.rendering()) for context in contexts
    }.values()
    return lambda examples: (
        max(encoder.prompt_length(e.inputs) for encoder in encoders) for e in examples
    )
