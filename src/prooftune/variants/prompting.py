"""The untuned model asked in words: zero-shot, few-shot, and the best of several prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from prooftune.errors import UsageError
from prooftune.recipe import Variant
from prooftune.tasks.prompts import PromptEncoder, Rendering, Shot
from prooftune.tasks.templates import candidate_templates
from prooftune.types import Example, Prediction
from prooftune.utils.files import write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.model_handle import ModelHandle


def run_zero_shot(
    context: VariantContext, variant: Variant, held: ModelHandle, name: str
) -> VariantOutput:
    return _scored(context, held, context.rendering(variant.prompt), name, "the instruction alone")


def run_few_shot(
    context: VariantContext, variant: Variant, held: ModelHandle, name: str
) -> VariantOutput:
    shots = sample_few_shot(
        context.study.train,
        context.study.strata(),
        variant.shots,
        context.recipe.seed,
        context.task_adapter.target_text,
    )
    rendering = context.rendering(variant.prompt, shots=shots)
    return _scored(
        context, held, rendering, name, f"{len(shots)} training examples shown in the prompt"
    )


def run_prompted(
    context: VariantContext, variant: Variant, held: ModelHandle, name: str
) -> VariantOutput:
    """Score every candidate prompt on the same validation rows and keep the best (the earlier at a
    tie)."""
    rows = _sample(
        context.study.validation or context.study.train,
        variant.validation_rows,
        context.recipe.seed,
    )
    tried: list[dict[str, Any]] = []
    with measure_cost() as search:
        for number, (template, encoder) in enumerate(candidates(context, variant).items()):
            predictions = held.predict(
                context.recipe, encoder, rows, False, f"{name}: prompt {number + 1}"
            )
            quality = fmean(
                context.task_adapter.quality(p, e) for p, e in zip(predictions, rows, strict=True)
            )
            tried.append(
                {
                    "template": template,
                    "quality": quality,
                    "measure": context.task_adapter.quality_name,
                    "rows": len(rows),
                    "tokens": fmean(p.prompt_tokens for p in predictions),
                }
            )
    best = max(tried, key=lambda t: float(t["quality"]))
    outcome = _scored(
        context,
        held,
        context.rendering(variant.prompt, template=best["template"]),
        name,
        f"the best of {len(tried)} prompts on {len(rows)} validation rows",
    )
    outcome.details["prompts_tried"] = tried
    outcome.details["cost"]["train_seconds"] = search.seconds
    return outcome


def candidates(context: VariantContext, variant: Variant) -> dict[str, PromptEncoder]:
    """The prompts that are tried, by template: the recipe's, or those of the shipped ones that fit
    into ``prompt.max_length``.

    Raises:
        UsageError: one of the recipe's does not fit, or none of the shipped ones.
    """

    def encoder(template: str) -> PromptEncoder:
        return context.encoder(context.rendering(variant.prompt, template=template))

    if variant.candidates:
        return {template: encoder(template) for template in variant.candidates}
    fitting: dict[str, PromptEncoder] = {}
    refused: UsageError | None = None
    for template in candidate_templates(
        context.recipe.task, context.fields, context.recipe.answering.no_answer
    ):
        try:
            fitting[template] = encoder(template)
        except UsageError as error:
            refused = error
    if refused and not fitting:
        raise refused
    return fitting


def sample_few_shot(
    train: Sequence[Example],
    strata: list[str],
    count: int,
    seed: int,
    said: Callable[[Example], str],
) -> tuple[Shot, ...]:
    """Examples to show: strata (labels) in turn, drawn with the seed from the shorter half of each
    one's training rows (long ones would crowd out the text that is asked about).

    Args:
        train: rows to draw from.
        strata: see `Study.strata`.
        count: how many, as far as there are rows.
        seed: of the draw.
        said: the answer shown with an example.
    """
    generator = random.Random(seed)
    pools: dict[str, list[tuple[int, str, int]]] = {label: [] for label in strata}
    for i, e in enumerate(train):
        if e.stratum in pools:
            pools[e.stratum].append((sum(map(len, e.inputs.values())), e.id, i))
    for label, rows in pools.items():
        half = sorted(rows)[: (len(rows) + 1) // 2]
        pools[label] = generator.sample(half, len(half))
    order = generator.sample(strata, len(strata))
    shots: list[Shot] = []
    while len(shots) < count and any(pools.values()):
        for label in order:
            if pools[label] and len(shots) < count:
                drawn = train[pools[label].pop()[2]]
                shots.append(Shot(drawn.inputs, said(drawn)))
    return tuple(shots)


def _scored(
    context: VariantContext, held: ModelHandle, rendering: Rendering, name: str, description: str
) -> VariantOutput:
    encoder = context.encoder(rendering)
    write_json(context.folder / "rendering.json", rendering.to_json())
    return score_splits(context, held, encoder, name, description)


def score_splits(
    context: VariantContext,
    held: ModelHandle,
    encoder: PromptEncoder,
    name: str,
    description: str,
    *,
    head: bool = False,
) -> VariantOutput:
    """Predict test and validation rows with one model and one encoder, and record what it cost."""
    study, recipe = context.study, context.recipe
    with measure_cost() as scoring:
        test = held.predict(recipe, encoder, study.test, head, f"{name}: test rows")
    validation = held.predict(recipe, encoder, study.validation, head, f"{name}: validation rows")
    parsed = recipe.task == "classification" and not head and recipe.scoring.method == "generation"
    how = ", generated and parsed" if parsed else ""
    return VariantOutput(
        test,
        validation,
        {
            "description": description + how,
            "prompt": encoder.render(study.test[0].inputs),
            "cost": {
                "train_seconds": 0.0,
                "score_seconds": scoring.seconds,
                "score_tokens": _tokens(test),
                "generated_tokens": sum(p.generated_tokens for p in test),
                "peak_memory_bytes": scoring.peak_memory_bytes,
            },
        },
    )


def _tokens(predictions: list[Prediction]) -> int:
    return sum(p.prompt_tokens for p in predictions)


def _sample(rows: Sequence[Example], count: int, seed: int) -> Sequence[Example]:
    return rows if len(rows) <= count else random.Random(seed).sample(rows, count)
