"""Time of generated answers, from their first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prooftune.recipe import Recipe
from prooftune.types import Prediction
from prooftune.utils.profiling import Cost

FEW_TOKENS = 8
"""Tokens of an answer that are generated for an estimate; all others take as long each."""


def new_tokens(recipe: Recipe, head: bool) -> int:
    """Tokens that a prediction may generate; 0 where labels are scored."""
    if not recipe.has_labels:
        return recipe.answering.max_new_tokens
    generates = recipe.scoring.method == "generation" and not head
    return recipe.scoring.max_new_tokens if generates else 0


def with_new_tokens(recipe: Recipe, count: int) -> Recipe:
    """The recipe with answers of at most `count` tokens."""
    limit = {"max_new_tokens": count}
    return recipe.model_copy(
        update={
            "answering": recipe.answering.model_copy(update=limit),
            "scoring": recipe.scoring.model_copy(update=limit),
        }
    )


def extrapolate(
    one: Cost, few: Cost, answers: Sequence[Prediction], tokens: int, length: float = 1.0
) -> Cost:
    """The cost of whole answers, from which seconds per prompt token can be taken.

    Args:
        one, few: costs of the same rows with answers of 1 token and of `FEW_TOKENS`. Both contain
            the prompts, so that their difference is the time of generating.
        answers: the longer ones; those that ended before `FEW_TOKENS` do not get longer.
        tokens: of a whole answer.
        length: prompt tokens of a measured row, as a share of the mean row's. Answers to short
            prompts take as long, and would be counted too often per prompt token.
    """
    each = max(0.0, few.seconds - one.seconds) / (FEW_TOKENS - 1)
    unfinished = sum(a.generated_tokens >= FEW_TOKENS for a in answers) / max(1, len(answers))
    prompts = max(0.0, one.seconds - each)
    generating = few.seconds - prompts + each * unfinished * (tokens - FEW_TOKENS)
    return replace(few, seconds=prompts + length * generating)
