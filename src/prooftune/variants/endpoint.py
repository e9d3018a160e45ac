"""A model behind an OpenAI-compatible server: zero-shot, few-shot, or the best of several prompts.

Every reply is cached by its content in the run folder, so that a killed or a later run asks for
nothing twice. The budget holds before a request is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from urllib.parse import urlsplit

from prooftune.recipe import Variant
from prooftune.recipe.endpoint import Endpoint
from prooftune.tasks.chat_messages import chat_messages
from prooftune.tasks.prompt_segments import check_template
from prooftune.tasks.rendering import Rendering, Shot
from prooftune.tasks.templates import MANY_LABELS, candidate_templates, default_template
from prooftune.types import Example
from prooftune.utils.files import write_json
from prooftune.utils.profiling import measure_cost
from prooftune.variant_details import EndpointUsage, PromptTrial
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.endpoint_client import EndpointClient
from prooftune.variants.few_shot import sample_few_shot


def run_endpoint(context: VariantContext, variant: Variant, name: str) -> VariantOutput:
    """Ask the endpoint for all test and validation rows.

    Args:
        context: the study.
        variant: with `variant.endpoint`.
        name: of the variant, for progress and messages.

    Raises:
        UsageError: the key is missing or refused, or the endpoint does not know the model.
        Failure: the budget would be exceeded, or rows have no reply; the replies so far are stored.
    """
    if variant.endpoint is None:
        raise ValueError("no endpoint")
    client = EndpointClient(variant.endpoint, name, context)
    study, trials = context.study, list[PromptTrial]()
    rendering = endpoint_rendering(context, variant)
    candidates = prompt_candidates(context, variant, rendering)
    rows = trial_rows(context, variant) if candidates else []
    tried = [(candidate, rows) for candidate in candidates]
    # Before the first is sent: a budget that cannot be enough then costs nothing.
    client.check_budget(
        *(
            [*tried, (chosen, study.test), (chosen, study.validation)]
            for chosen in candidates or [rendering]
        )
    )
    with measure_cost() as search:
        if candidates:
            rendering, trials = _best_prompt(context, client, candidates, rows, name)
    write_json(context.folder / "rendering.json", rendering.to_json())
    with measure_cost() as scoring:
        test = client.predict(rendering, study.test, f"{name}: test rows")
    test_replies = client.replies
    validation = client.predict(rendering, study.validation, f"{name}: validation rows")
    if not all(p.log_probs for p in (*test, *validation)):
        # Probabilities of some rows only cannot be calibrated.
        test, validation = (
            [replace(p, log_probs=()) for p in predictions] for predictions in (test, validation)
        )
    usage = client.usage(test_replies)
    output = VariantOutput(
        test,
        validation,
        {
            "description": _describe(variant, variant.endpoint, usage, rendering, trials),
            "model": variant.endpoint.model,
            "prompt": "\n\n".join(
                m["content"] for m in chat_messages(rendering, study.test[0].inputs)
            ),
            "endpoint": {**usage, "logprobs": bool(test and test[0].log_probs)},
            "cost": {
                "train_seconds": search.seconds if trials else 0.0,
                "score_seconds": scoring.seconds,
                "score_tokens": usage["prompt_tokens"],
                "generated_tokens": usage["completion_tokens"],
            },
        },
    )
    if trials:
        output.details["prompts_tried"] = trials
    return output


def endpoint_rendering(context: VariantContext, variant: Variant) -> Rendering:
    """The variant's prompt, without what only a tokenizer knows."""
    recipe, study = context.recipe, context.study
    prompt = recipe.prompt
    if variant.prompt is not None:
        fields = variant.prompt.model_fields_set
        prompt = prompt.model_copy(update={f: getattr(variant.prompt, f) for f in fields})
    default = default_template(recipe.task, context.fields, recipe.answering.no_answer)
    shots: tuple[Shot, ...] = ()
    if variant.prompting == "few-shot":
        shots = sample_few_shot(context, variant.shots)
    # Neither chat template nor maximum length: both are the server's.
    rendering = Rendering(
        prompt.template or default,
        tuple(study.labels),
        prompt.system,
        shots=shots,
        labels_once=bool(shots) and len(study.labels) > MANY_LABELS,
    )
    check_template(rendering.template, context.fields)
    return rendering


def prompt_candidates(
    context: VariantContext, variant: Variant, rendering: Rendering
) -> list[Rendering]:
    """Prompts to choose from; none unless the variant is prompted."""
    if variant.prompting != "prompted":
        return []
    recipe = context.recipe
    templates = variant.candidates or candidate_templates(
        recipe.task, context.fields, recipe.answering.no_answer, len(context.study.labels)
    )
    for template in templates:
        check_template(template, context.fields)
    return [replace(rendering, template=template) for template in templates]


def trial_rows(context: VariantContext, variant: Variant) -> list[Example]:
    """Rows on which prompts are compared."""
    from prooftune.training.quality import sample_rows

    # The model has not seen the training rows either.
    rows = context.study.validation or context.study.train
    return sample_rows(rows, variant.validation_rows, context.recipe.seed)


def _best_prompt(
    context: VariantContext,
    client: EndpointClient,
    candidates: Sequence[Rendering],
    rows: Sequence[Example],
    name: str,
) -> tuple[Rendering, list[PromptTrial]]:
    """The candidate with the best quality on the rows; ties go to the earlier one."""
    task = context.task_adapter
    trials: list[PromptTrial] = []
    for number, candidate in enumerate(candidates, start=1):
        predictions = client.predict(candidate, rows, f"{name}: prompt {number}")
        quality = fmean(task.quality(p, e) for p, e in zip(predictions, rows, strict=True))
        trials.append(
            {
                "template": candidate.template,
                "quality": quality,
                "measure": task.quality_name,
                "rows": len(rows),
                "tokens": fmean(p.prompt_tokens for p in predictions),
            }
        )
    best = max(range(len(trials)), key=lambda index: trials[index]["quality"])
    return candidates[best], trials


def _describe(
    variant: Variant,
    settings: Endpoint,
    usage: EndpointUsage,
    rendering: Rendering,
    trials: list[PromptTrial],
) -> str:
    how = {
        "zero-shot": "the instruction alone",
        "few-shot": f"{len(rendering.shots)} training examples shown in the prompt",
        "prompted": f"the best of {len(trials)} prompts",
    }[variant.prompting]
    cost = ""
    if usage["cost_per_1000"] is not None:
        cost = f", {usage['cost_per_1000']:.3g} {usage['currency']} per 1,000 predictions"
    if settings.price and usage["without_usage"]:
        cost += (
            f" ({usage['without_usage']:,} of {usage['requests']:,} replies without token counts)"
        )
    return f"{settings.model} at {urlsplit(settings.base_url).netloc}, {how}{cost}"
