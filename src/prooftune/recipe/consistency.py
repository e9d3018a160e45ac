"""Options of a recipe that contradict each other, beyond the types of single keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prooftune.errors import nearest
from prooftune.recipe.continued import continued_problems, cost_problems
from prooftune.recipe.metrics import COST_METRICS, ORDINAL_METRICS, PRIMARY_METRICS
from prooftune.recipe.model import DATA_CONTEXT
from prooftune.recipe.search import search_problems
from prooftune.recipe.variant_options import (
    ANSWERING_KINDS,
    MULTILABEL_KINDS,
    QA_OPTIONS,
    TRAINED_KINDS,
)
from prooftune.recipe.variants import Variant
from prooftune.types import SPLITS

if TYPE_CHECKING:
    from prooftune.recipe.sections import Recipe

BEST = "best"
"""Value of ``bundle.variant``: the best variant on validation rows, whatever its kind."""


def section_problems(recipe: Recipe) -> Iterator[str]:
    """Problems of sections with the task and with each other, one sentence each."""
    known = PRIMARY_METRICS[recipe.task]
    if recipe.evaluation.primary is not None and recipe.evaluation.primary not in known:
        lacking = [
            *(() if recipe.data.ordinal else ORDINAL_METRICS),
            *(COST_METRICS if recipe.costs is None else ()),
        ]
        known = {m: t for m, t in known.items() if m not in lacking}
        yield (
            f"evaluation.primary: '{recipe.evaluation.primary}' is not a metric that can judge "
            f"task: {recipe.task}{nearest(recipe.evaluation.primary, known)}; choose one of "
            f"{', '.join(known)}"
        )
    elif recipe.evaluation.primary in ORDINAL_METRICS and not recipe.data.ordinal:
        yield (
            f"evaluation.primary: {recipe.evaluation.primary} needs data.ordinal, which says "
            "that labels are values on a scale"
        )
    elif recipe.evaluation.primary in COST_METRICS and recipe.costs is None:
        yield f"evaluation.primary: {recipe.evaluation.primary} needs costs, what errors cost"
    if recipe.data.ordinal and not recipe.has_labels:
        yield f"data.ordinal does not apply to task: {recipe.task}, which has no labels"
    yield from _multilabel_problems(recipe)
    yield from cost_problems(recipe)
    if recipe.seeds > 1 and not any(v.kind in TRAINED_KINDS for v in recipe.variants.values()):
        yield f"seeds: {recipe.seeds} does not apply: no variant is trained (tuned, encoder)"
    yield from _curve_problems(recipe)
    if recipe.search is not None:
        yield from search_problems(
            recipe.search, recipe.searchable_variants(), recipe.task, recipe.training
        )
    yield from _cost_problems(recipe)
    shipped = recipe.bundle.variant
    if shipped is not None:
        # Controls and endpoints cannot be bundled.
        able = [name for name, variant in recipe.variants.items() if recipe.can_ship(variant)]
        if shipped not in (*able, BEST):
            yield (
                f"bundle.variant: '{shipped}' is not a variant that can be served"
                f"{nearest(shipped, able)}; name one of {', '.join((*able, BEST))}"
            )
    if recipe.has_labels:
        for section in ("answering", "retrieval"):
            if section in recipe.model_fields_set and getattr(recipe, section) is not None:
                yield f"'{section}' does not apply to task: {recipe.task}"
    elif recipe.class_weights:
        yield f"'class_weights' does not apply to task: {recipe.task}, which has no labels"
    if recipe.retrieval and recipe.retrieval.documents == DATA_CONTEXT and recipe.data.gold:
        yield (
            f"data.gold contradicts retrieval.documents: {DATA_CONTEXT}, where the gold "
            "passage of a question is its own context"
        )


def _cost_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.cost.currency is not None and recipe.cost.machine_per_hour is None:
        yield "cost.currency needs cost.machine_per_hour, the price that it belongs to"
    if recipe.cost.machine_per_hour is None:
        return
    named = dict.fromkeys([recipe.cost_currency(), *recipe.endpoint_currencies()])
    if len(named) > 1:
        yield (
            f"cost: prices in {' and '.join(named)} cannot be compared; give "
            "cost.machine_per_hour and every endpoint.price in one currency"
        )


def _multilabel_problems(recipe: Recipe) -> Iterator[str]:
    sources = [s for s in SPLITS if getattr(recipe.data, s) is not None]
    separated = any(recipe.data.source(s).label_separator for s in sources)
    if not recipe.has_labels and any(recipe.data.source(s).label_columns for s in sources):
        yield f"data.label_columns does not apply to task: {recipe.task}"
    if recipe.task != "multilabel":
        if separated:
            yield (
                f"data.label_separator does not apply to task: {recipe.task}; several labels "
                "per text are task: multilabel"
            )
        return
    if recipe.data.ordinal:
        yield "data.ordinal does not apply to task: multilabel, whose labels have no order"
    if any(recipe.data.source(s).bins for s in sources):
        yield "data.bins does not apply to task: multilabel, whose targets are no numbers"
    for section in ("class_weights", "learning_curve", "judge", "search"):
        if getattr(recipe, section):
            yield f"'{section}' does not support task: multilabel"


def _curve_problems(recipe: Recipe) -> Iterator[str]:
    if recipe.learning_curve is None:
        return
    able = recipe.learning_variants()
    if not able:
        yield "learning_curve does not apply: no variant is trained on labels"
    for name in recipe.learning_curve.variants or ():
        if name not in able:
            yield (
                f"learning_curve.variants: '{name}' is not a variant that is trained on "
                f"labels{nearest(name, able)}; name some of {', '.join(able)}"
            )


def variant_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    """Problems of a variant's options with the rest of the recipe, one sentence each."""
    known = list(recipe.data.train.by_language())
    for option in ("languages", "without"):
        named = getattr(variant, option) or []
        if named and not known and recipe.data.source("train").language is None:
            yield f"'{option}' needs data.language, or data.train as {{language: files}}"
        for language in named:
            if known and language not in known:
                yield f"{option}: no language '{language}' in data.train ({', '.join(known)})"
    if recipe.task == "multilabel":
        if variant.kind not in MULTILABEL_KINDS:
            yield (
                f"kind: {variant.kind} cannot give several labels per text: a prompt's label "
                "probabilities sum to 1, so that two labels cannot both be likely. task: "
                f"multilabel has the kinds {', '.join(MULTILABEL_KINDS)}"
            )
        elif variant.kind == "tuned" and variant.objective != "head":
            yield f"objective: {variant.objective} cannot give several labels per text; use head"
        if variant.class_weights:
            yield "'class_weights' does not support task: multilabel"
    if recipe.has_labels:
        for option in QA_OPTIONS:
            if option in variant.model_fields_set:
                yield f"'{option}' does not apply to task: {recipe.task}"
    else:
        if variant.kind not in ANSWERING_KINDS:
            yield (
                f"kind: {variant.kind} cannot answer questions. task: {recipe.task} has the kinds "
                f"{', '.join(ANSWERING_KINDS)}"
            )
        if variant.objective == "head":
            yield "objective: head cannot answer questions; use instruction"
        if variant.class_weights:
            yield f"'class_weights' does not apply to task: {recipe.task}, which has no labels"
    if variant.context in ("retrieved", "gold", "random") and recipe.retrieval is None:
        yield f"context: {variant.context} needs a retrieval section with documents"
    yield from continued_problems(recipe, variant)
    if variant.adapter:
        source = recipe.variants.get(variant.adapter)
        if (
            # Whether it exists is reported below.
            source is not None
            and variant.model is not None
            and recipe.model_of(variant) != recipe.model_of(source)
        ):
            yield (
                f"model: contradicts adapter: '{variant.adapter}' was trained on "
                f"{recipe.model_of(source).name}; remove the model"
            )
        if source is None or source.kind != "tuned" or source.adapter:
            yield (
                f"adapter: '{variant.adapter}' is not a variant of kind tuned that trains its "
                "own adapter"
            )
        elif source.objective == "head":
            yield (
                f"adapter: '{variant.adapter}' has a classification head, which is not "
                "prompted; name a variant with objective: instruction"
            )
