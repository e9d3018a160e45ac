"""What a variant behind an endpoint will send, and what that costs at most. Nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from prooftune.chat_client.budget import Limits, prompt_bound
from prooftune.recipe import Recipe
from prooftune.recipe.endpoint import Endpoint
from prooftune.tasks.chat_messages import chat_messages
from prooftune.tasks.rendering import Rendering
from prooftune.types import Example, Study
from prooftune.variants.context import VariantContext
from prooftune.variants.document_files import uses_passages
from prooftune.variants.dummy_passages import with_dummy_passages
from prooftune.variants.endpoint import endpoint_rendering, prompt_candidates, trial_rows
from prooftune.variants.passages import PassageProvider


@dataclass(frozen=True, slots=True)
class EndpointEstimate:
    """Requests of one variant, without retries, and upper bounds of tokens and price.

    A token of a text is at least one byte of its UTF-8 form, and a reply has at most
    ``endpoint.max_tokens``: the bounds by which the budget works, too.

    Attributes:
        name: the variant's name.
        server: host that receives the texts.
        requests: equal ones, which are sent once, counted once.
        prompt_tokens, completion_tokens: at most.
        money: price at most, in `currency`; None without ``endpoint.price``.
        currency: of the price; empty without one.
        over_budget: the limits of ``endpoint.budget`` that these figures exceed, in words.
    """

    name: str
    server: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    money: float | None
    currency: str
    over_budget: tuple[str, ...] = ()


def estimate_endpoints(recipe: Recipe, study: Study, base: Path) -> list[EndpointEstimate]:
    """Estimates for every variant of kind endpoint.

    Args:
        recipe, study: the study to estimate.
        base: folder of the recipe's relative paths.
    """
    return [
        _estimate(recipe, study, base, name, variant.endpoint)
        for name, variant in recipe.variants.items()
        if variant.endpoint is not None
    ]


def _estimate(
    recipe: Recipe, study: Study, base: Path, name: str, settings: Endpoint
) -> EndpointEstimate:
    variant = recipe.variants[name]
    if uses_passages(variant):
        # Retrieval has not run yet: sampled passages take its place.
        own = with_dummy_passages(recipe, study, base)
    else:
        own = PassageProvider(recipe, Path(), Path()).study_for(study, variant)[0]
    context = VariantContext(recipe.for_variant(name), own, Path(), base=base)
    rendering = endpoint_rendering(context, variant)
    candidates = prompt_candidates(context, variant, rendering)
    # Which of the candidates is chosen is not known yet, so the longest counts.
    plans = [
        _plan(candidates, trial_rows(context, variant) if candidates else [], chosen, own)
        for chosen in candidates or [rendering]
    ]
    requests = max(map(len, plans))
    prompt_tokens = max(sum(plan.values()) for plan in plans)
    completion_tokens = requests * settings.max_tokens
    price = settings.price
    limits = Limits(
        input_price=price.input if price else 0.0, output_price=price.output if price else 0.0
    )
    money = limits.price(prompt_tokens, completion_tokens) if price else None
    budget, currency = settings.budget, price.currency if price else ""
    figures = {
        "requests": (requests, budget.requests),
        "tokens": (prompt_tokens + completion_tokens, budget.tokens),
        currency: (money or 0.0, budget.money),
    }
    over = [
        f"up to {most:,.6g} {unit} where {limit:,.6g} are allowed"
        for unit, (most, limit) in figures.items()
        if limit is not None and most > limit
    ]
    return EndpointEstimate(
        name,
        urlsplit(settings.base_url).netloc,
        requests,
        prompt_tokens,
        completion_tokens,
        money,
        currency,
        tuple(over),
    )


def _plan(
    candidates: Sequence[Rendering], trials: Sequence[Example], chosen: Rendering, study: Study
) -> dict[tuple[str, ...], int]:
    """Texts of every request of a run -> its prompt tokens at most; equal ones are sent once."""
    requests = chain(
        ((candidate, example) for candidate in candidates for example in trials),
        ((chosen, example) for example in chain(study.test, study.validation)),
    )
    plan = {}
    for rendering, example in requests:
        messages = chat_messages(rendering, example.inputs)
        plan[tuple(message["content"] for message in messages)] = prompt_bound(
            {"messages": messages}
        )
    return plan
