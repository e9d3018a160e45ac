"""Variants that prompt the untuned model: zero-shot, few-shot, and the best of several prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from prooftune.errors import UsageError
from prooftune.recipe import Variant
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.tasks.templates import candidate_templates
from prooftune.types import Example, Prediction
from prooftune.utils.files import write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import PromptTrial
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.few_shot import sample_few_shot
from prooftune.variants.latency import measure_latency
from prooftune.variants.model_handle import ModelHandle


def run_zero_shot(
    context: VariantContext, variant: Variant, handle: ModelHandle, name: str
) -> VariantOutput:
    """Predict with the instruction alone."""
    rendering = context.rendering(variant.prompt)
    return _run_prompt(context, handle, rendering, name, "the instruction alone")


def run_few_shot(
    context: VariantContext, variant: Variant, handle: ModelHandle, name: str
) -> VariantOutput:
    """Predict with ``shots`` training examples in the prompt."""
    shots = sample_few_shot(context, variant.shots)
    rendering = context.rendering(variant.prompt, shots=shots)
    description = f"{len(shots)} training examples shown in the prompt"
    return _run_prompt(context, handle, rendering, name, description)


def run_prompted(
    context: VariantContext, variant: Variant, handle: ModelHandle, name: str
) -> VariantOutput:
    """Score all candidate prompts on the same validation rows, and predict with the best one.

    Ties go to the earlier prompt.
    """
    rows = _sample(
        # The untuned model has not seen the training rows, so they can take the place of validation
        # rows.
        context.study.validation or context.study.train,
        variant.validation_rows,
        context.recipe.seed,
    )
    trials: list[PromptTrial] = []
    with measure_cost() as search:
        for number, (template, encoder) in enumerate(candidates(context, variant).items()):
            predictions = handle.predict(
                context.recipe, encoder, rows, False, f"{name}: prompt {number + 1}"
            )
            quality = context.task_adapter.quality
            trials.append(
                {
                    "template": template,
                    "quality": fmean(quality(p, e) for p, e in zip(predictions, rows, strict=True)),
                    "measure": context.task_adapter.quality_name,
                    "rows": len(rows),
                    "tokens": fmean(p.prompt_tokens for p in predictions),
                }
            )
    best = max(trials, key=lambda trial: trial["quality"])
    output = _run_prompt(
        context,
        handle,
        context.rendering(variant.prompt, template=best["template"]),
        name,
        f"the best of {len(trials)} prompts on {len(rows)} validation rows",
    )
    output.details["prompts_tried"] = trials
    output.details["cost"]["train_seconds"] = search.seconds
    return output


def candidates(context: VariantContext, variant: Variant) -> dict[str, PromptEncoder]:
    """Encoders of the candidate prompts, by template.

    The candidates are the recipe's, or else those of the built-in ones that fit
    ``prompt.max_length``.

    Raises:
        UsageError: one of the recipe's prompts does not fit, or none of the built-in ones does.
    """

    def encoder(template: str) -> PromptEncoder:
        return context.encoder(context.rendering(variant.prompt, template=template))

    if variant.candidates:
        return {template: encoder(template) for template in variant.candidates}
    fitting: dict[str, PromptEncoder] = {}
    last_error: UsageError | None = None
    for template in candidate_templates(
        context.recipe.task,
        context.fields,
        context.recipe.answering.no_answer,
        len(context.study.labels),
    ):
        try:
            fitting[template] = encoder(template)
        except UsageError as error:
            last_error = error
    if last_error and not fitting:
        raise last_error
    return fitting


def _run_prompt(
    context: VariantContext,
    handle: ModelHandle,
    rendering: Rendering,
    name: str,
    description: str,
) -> VariantOutput:
    encoder = context.encoder(rendering)
    write_json(context.folder / "rendering.json", rendering.to_json())
    return score_splits(context, handle, encoder, name, description)


def score_splits(
    context: VariantContext,
    handle: ModelHandle,
    encoder: PromptEncoder,
    name: str,
    description: str,
    *,
    head: bool = False,
) -> VariantOutput:
    """Predict test and validation rows with one model and one encoder, and measure the cost."""
    study, recipe = context.study, context.recipe
    with measure_cost() as scoring:
        test = handle.predict(recipe, encoder, study.test, head, f"{name}: test rows")
    validation = handle.predict(recipe, encoder, study.validation, head, f"{name}: validation rows")
    if recipe.task == "classification" and not head and recipe.scoring.method == "likelihood":
        test = _with_generated_answers(context, handle, encoder, test, name)
    # After all predictions, so that it cannot change them; on this rank alone, since a single row
    # has no shards.
    latency = measure_latency(
        context,
        lambda rows: context.task_adapter.predict(handle.model, encoder, rows, head, None),
    )
    is_generated = (
        recipe.task == "classification" and not head and recipe.scoring.method == "generation"
    )
    return VariantOutput(
        test,
        validation,
        {
            "description": description + (", generated and parsed" if is_generated else ""),
            "prompt": encoder.render(study.test[0].inputs),
            "cost": {
                "train_seconds": 0.0,
                "score_seconds": scoring.seconds,
                "score_tokens": _prompt_tokens(test),
                "generated_tokens": sum(p.generated_tokens for p in test),
                "peak_memory_bytes": scoring.peak_memory_bytes,
                **latency,
            },
        },
    )


def _with_generated_answers(
    context: VariantContext,
    handle: ModelHandle,
    encoder: PromptEncoder,
    predictions: list[Prediction],
    name: str,
) -> list[Prediction]:
    """The predictions with what the model writes itself, for ``scoring.generated_rows`` of them.

    A label that is chosen by likelihood is always valid; whether the model follows the instruction
    shows in the text that it generates. Labels and probabilities remain those of the likelihood.
    """
    recipe, examples = context.recipe, context.study.test
    count = min(recipe.scoring.generated_rows, len(examples))
    if not count:
        return predictions
    # The same rows for all variants, since they are compared in pairs.
    numbers = sorted(random.Random(recipe.seed).sample(range(len(examples)), count))
    scoring = recipe.scoring.model_copy(update={"method": "generation"})
    generated = handle.predict(
        recipe.model_copy(update={"scoring": scoring}),
        encoder,
        [examples[number] for number in numbers],
        False,
        f"{name}: generated answers",
    )
    result = list(predictions)
    for number, answer in zip(numbers, generated, strict=True):
        result[number] = replace(
            result[number], raw=answer.raw, generated_tokens=answer.generated_tokens
        )
    return result


def _prompt_tokens(predictions: list[Prediction]) -> int:
    return sum(p.prompt_tokens for p in predictions)


def _sample(rows: Sequence[Example], count: int, seed: int) -> Sequence[Example]:
    return rows if len(rows) <= count else random.Random(seed).sample(rows, count)
