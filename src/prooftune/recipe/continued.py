"""Problems of variants that continue from another one's weights, and of costs of errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prooftune.errors import nearest
from prooftune.recipe.base import key_of
from prooftune.recipe.metrics import REWARD_METRICS
from prooftune.recipe.variant_options import (
    CONTINUED_OBJECTIVES,
    INHERITED_OPTIONS,
    SAMPLING_OPTIONS,
)
from prooftune.recipe.variants import Variant

if TYPE_CHECKING:
    from prooftune.recipe.sections import Recipe


def cost_problems(recipe: Recipe) -> Iterator[str]:
    """Problems of ``costs`` with the task, one sentence each."""
    if recipe.costs is None:
        return
    if recipe.task != "classification":
        yield f"'costs' does not apply to task: {recipe.task}; it needs one label per text"


def continued_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    """Problems of one variant's objective, start and decision, one sentence each."""
    if variant.decision == "least-cost" and recipe.costs is None:
        yield "decision: least-cost needs the recipe's costs"
    if not variant.continues:
        for name in ("start_from", "beta", "pairs", *SAMPLING_OPTIONS):
            if getattr(variant, name) is not None:
                key = key_of(name, Variant.model_fields[name])
                able = ("reward",) if name in SAMPLING_OPTIONS else CONTINUED_OBJECTIVES
                yield (
                    f"'{key}' does not apply to objective: {variant.objective}, only to "
                    f"{' and '.join(able)}"
                )
        return
    if variant.kind != "tuned":
        return  # reported as an option that does not apply
    yield from _start_problems(recipe, variant)
    for name in INHERITED_OPTIONS:
        if name in variant.model_fields_set:
            yield f"'{name}' contradicts from: it is that of '{variant.start_from}'"
    if variant.pretrain is not None:
        yield f"'pretrain' contradicts from: give it to '{variant.start_from}'"
    if variant.objective == "reward":
        yield from _reward_problems(recipe, variant)
    else:
        yield from _preference_problems(recipe, variant)


def _start_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    able = [n for n, v in recipe.variants.items() if v is not variant and _can_start(v)]
    choice = f"; name one of {', '.join(able)}" if able else "; add a variant of kind tuned"
    if variant.start_from is None:
        yield f"objective: {variant.objective} needs 'from', the tuned variant to continue{choice}"
        return
    source = recipe.variants.get(variant.start_from)
    if source is None:
        near = nearest(variant.start_from, able)
        yield f"from: there is no variant '{variant.start_from}'{near}{choice}"
    elif source is variant:
        yield f"from: a variant cannot continue from itself{choice}"
    elif source.objective == "head" and source.kind == "tuned":
        yield (
            f"from: '{variant.start_from}' has a classification head; name a variant with "
            "objective: instruction"
        )
    elif not _can_start(source):
        yield (
            f"from: '{variant.start_from}' is not a variant of kind tuned that trains its own "
            f"weights{choice}"
        )
    elif source.context not in (None, "given"):
        yield (
            f"from: '{variant.start_from}' has context: {source.context}; only variants that see "
            "the context of the data can be continued"
        )


def _can_start(variant: Variant) -> bool:
    return variant.kind == "tuned" and variant.is_trained and variant.objective != "head"


def _reward_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    if recipe.has_labels:
        yield from _label_reward_problems(recipe, variant)
    else:
        yield from _sampling_problems(recipe, variant)
    if variant.pairs is not None:
        yield "'pairs' does not apply to objective: reward, only to preference"
    if {**recipe.training, **variant.training}.get("label_smoothing_factor"):
        yield (
            "training.label_smoothing_factor does not apply to objective: reward; set it to 0 for "
            "this variant"
        )


def _label_reward_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    """Problems of a reward for labels, which are enumerated."""
    for name in SAMPLING_OPTIONS:
        if getattr(variant, name) is not None:
            yield (
                f"'{name}' does not apply to task: {recipe.task}, whose labels are enumerated and "
                "not sampled; 'costs' of the recipe say what errors cost"
            )
    if recipe.scoring.method == "generation":
        yield "objective: reward trains label probabilities; it contradicts method: generation"
    elif recipe.scoring.calibration:
        yield "objective: reward trains label probabilities; it contradicts scoring.calibration"


def _sampling_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    """Problems of a reward for answers, which are sampled."""
    for metric, weight in (variant.rewards or {}).items():
        if metric == "judge":
            yield (
                "rewards: 'judge' is not supported: it would be asked about every sampled answer "
                f"of every step; choose from {', '.join(REWARD_METRICS)}"
            )
        elif metric == "citations":
            yield (
                "rewards: 'citations' needs passages to cite, and a variant that is trained "
                f"further sees the context of the data; choose from {', '.join(REWARD_METRICS)}"
            )
        elif metric not in REWARD_METRICS:
            yield (
                f"rewards: '{metric}' is not a metric of single answers"
                f"{nearest(metric, REWARD_METRICS)}; choose from {', '.join(REWARD_METRICS)}"
            )
        elif not weight > 0:
            yield f"rewards: the weight of '{metric}' must be above 0, found {weight:g}"
    if variant.rewards == {}:
        yield f"rewards: name at least one of {', '.join(REWARD_METRICS)}"
    if {**recipe.training, **variant.training}.get("fsdp"):
        yield (
            "objective: reward samples answers during the training, for which weights cannot be "
            "sharded; remove training.fsdp, or use objective: preference"
        )


def _preference_problems(recipe: Recipe, variant: Variant) -> Iterator[str]:
    if variant.beta == 0:
        yield "beta: objective: preference needs a value above 0, found 0"
    for name in SAMPLING_OPTIONS:
        if getattr(variant, name) is not None:
            yield f"'{name}' does not apply to objective: preference, only to reward"
    if variant.pairs is not None and recipe.has_labels:
        yield (
            f"'pairs' does not apply to task: {recipe.task}: its pairs are made from labels. "
            "Remove it, or use task: free-text-qa"
        )
    if variant.pairs is not None and variant.class_weights:
        yield "'class_weights' does not apply to pairs, which have no labels"
