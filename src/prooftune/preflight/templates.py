"""Prompt templates of a recipe: do they fit the data's fields, the labels and the model?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.errors import UsageError
from prooftune.preflight.findings import Finding
from prooftune.preflight.sources import refusal_of
from prooftune.recipe import Recipe, Variant
from prooftune.tasks.prompt_segments import check_template
from prooftune.tasks.rendering import Shot
from prooftune.types import CONTEXT, HISTORY, QUESTION, Study

if TYPE_CHECKING:
    from prooftune.variants.context import VariantContext

_PASSAGES = ("retrieved", "gold", "random")
"""Values of a variant's `context` that add the field `CONTEXT`."""


def check_templates(recipe: Recipe, fields: Sequence[str] | None = None) -> Iterator[Finding]:
    """Templates with unmatched braces or with fields that the data does not have.

    Args:
        recipe: the recipe.
        fields: input fields of the data; None: not read yet, those that the recipe may have.
    """
    known = _fields_of_recipe(recipe) if fields is None else list(fields)
    for name, variant in recipe.variants.items():
        if variant.generates:
            for key, template in _templates(recipe, name, variant):
                fields_of_variant = _fields_of_variant(known, variant)
                yield from refusal_of(
                    key, partial(_check_template, key, template, fields_of_variant)
                )


def _check_template(key: str, template: str, fields: Sequence[str]) -> None:
    try:
        check_template(template, fields)
    except UsageError as error:
        # Several variants have templates, so the message says which one is meant.
        raise UsageError(f"{key}: {error}") from None


def check_prompts(recipe: Recipe, study: Study) -> Iterator[Finding]:
    """Prompts that cannot be encoded: a maximum length without room for a text, few-shot examples
    beyond the model's context, a chat template that refuses the system message, empty labels."""
    from prooftune.variants.context import VariantContext

    # One for each base model, so that a tokenizer is loaded once.
    contexts = [VariantContext(view, study, Path()) for view in recipe.base_models().values()]
    for name, variant in recipe.variants.items():
        if not variant.uses_language_model:
            continue
        model = recipe.for_variant(name).model
        context = next(c for c in contexts if c.recipe.model == model)
        # Passages are retrieved later: an empty context stands for them.
        context.study = _with_context(study, variant)
        own = variant.prompt is not None or variant.candidates
        yield from refusal_of(
            f"variants.{name}" if own else "prompt", partial(_encode, context, variant)
        )


def _encode(context: VariantContext, variant: Variant) -> None:
    """Build the encoders of a variant's prompts.

    Raises:
        UsageError: one of them cannot be used.
    """
    from prooftune.variants.few_shot import sample_few_shot
    from prooftune.variants.prompting import candidates

    if variant.kind == "prompted":
        candidates(context, variant)
        return
    shots: tuple[Shot, ...] = ()
    # Where examples are of some languages only, they are not those of all rows.
    if variant.kind == "few-shot" and not (variant.languages or variant.without):
        shots = sample_few_shot(context, variant.shots)
    context.encoder(context.rendering(variant.prompt, shots=shots))


def _with_context(study: Study, variant: Variant) -> Study:
    """The study with the fields of a variant; one row of it where they are not the data's."""
    if variant.context in (None, "given"):
        return study
    rows = [
        replace(row, inputs={f: row.inputs.get(f, "") for f in fields})
        for row in islice(study.train, 1)
        if (fields := _fields_of_variant([*row.inputs], variant))
    ]
    return replace(study, train=rows, validation=[], test=[])


def _templates(recipe: Recipe, name: str, variant: Variant) -> Iterator[tuple[str, str]]:
    """(Key in the recipe, template) of a variant."""
    if variant.prompt is not None and variant.prompt.template is not None:
        yield f"variants.{name}.prompt.template", variant.prompt.template
    elif recipe.prompt.template is not None:
        yield "prompt.template", recipe.prompt.template
    for template in variant.candidates or ():
        yield f"variants.{name}.candidates", template


def _fields_of_recipe(recipe: Recipe) -> list[str]:
    """The fields that rows have by the recipe's ``data.text``, and those that they may have."""
    text = recipe.data.source("train").text
    if recipe.has_labels:
        return ["text"] if text is None else [text] if isinstance(text, str) else [*text]
    # Whether there is a context is seen in the file where the recipe does not say it.
    given = [QUESTION, CONTEXT] if text is None else [QUESTION] if isinstance(text, str) else text
    return [*given, HISTORY]


def _fields_of_variant(fields: Sequence[str], variant: Variant) -> list[str]:
    """The fields that a variant's prompts have."""
    others = [field for field in fields if field != CONTEXT]
    if variant.context in _PASSAGES:
        return [CONTEXT, *others]
    return others if variant.context == "none" else list(fields)
