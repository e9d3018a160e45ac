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

    The prompts are those of the recipe's own template. None if no variant uses a language model.
    """
    if not recipe.uses_language_model:
        return None
    context = VariantContext(recipe, study, Path())
    encoder = context.encoder(context.rendering())
    return lambda examples: (encoder.prompt_length(e.inputs) for e in examples)
