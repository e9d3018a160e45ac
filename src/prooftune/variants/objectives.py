"""What a tuned variant is trained on: module, rows and collator of its objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prooftune.engine.forward import device_of
from prooftune.errors import UsageError
from prooftune.recipe import Recipe, Variant
from prooftune.tasks.classification import class_pairs, label_scores, label_set_pairs
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.training.answer_reward import (
    AnswerRewardModule,
    AnswerRewardRow,
    Sampling,
    answer_reward_collator,
    answer_reward_rows,
)
from prooftune.training.objective import TuningModule
from prooftune.training.preference import (
    PreferenceModule,
    PreferenceRow,
    preference_collator,
    with_reference_policy,
)
from prooftune.training.reward import (
    RewardModule,
    RewardRow,
    ScoredLabels,
    reward_collator,
    reward_rows,
)
from prooftune.training.rows import TrainingRow, head_rows, instruction_rows
from prooftune.types import Example, SplitName
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.error_costs import error_cost_matrix
from prooftune.variants.answer_rewards import DEFAULT_BETA as DEFAULT_REWARD_BETA
from prooftune.variants.answer_rewards import DEFAULT_SAMPLES, answer_reward
from prooftune.variants.class_weights import label_weights, row_weights
from prooftune.variants.context import VariantContext
from prooftune.variants.preference_pairs import (
    answer_pairs,
    file_pairs,
    label_pairs,
    require_pairs,
)

DEFAULT_BETA = 0.1
"""DPO's beta unless the recipe says it, as in Rafailov et al. (2023) and in TRL."""

Collator = Callable[[Sequence[Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Objective:
    """What the trainer needs to know of an objective.

    Attributes:
        module: the module to train.
        rows: from examples of a split to training rows. Objectives with a reference policy compute
            it with the module's model as it is, so that rows are made before training.
        collator: from rows to the module's inputs; None: that of instructions and heads.
    """

    module: TuningModule
    rows: Callable[[Sequence[Example], SplitName], Sequence[TrainingRow]]
    collator: Collator | None = None


def needs_reference(recipe: Recipe, variant: Variant) -> bool:
    """Whether the starting policy must score the training rows before the training. Sampled answers
    are scored when they are sampled."""
    return variant.objective == "preference" or (
        variant.objective == "reward" and bool(variant.beta) and recipe.has_labels
    )


def build_objective(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    *,
    with_reference: bool = True,
) -> Objective:
    """The objective of a tuned variant.

    Args:
        context: the study.
        variant: the variant.
        encoder: renders the prompts.
        model: the trainable model. Where the objective continues from another variant, it has that
            variant's weights.
        with_reference: False to time a training: rows then have no reference policy.
    """
    if variant.objective == "reward" and not context.recipe.has_labels:
        return _answer_reward(context, variant, encoder, model)
    if variant.objective == "reward":
        return _reward(context, variant, encoder, model, with_reference)
    if variant.objective == "preference":
        return _preference(context, variant, encoder, model, with_reference)
    return Objective(
        TuningModule(model, context.label_set_matrix()),
        lambda examples, _: target_rows(context, encoder, examples, variant.objective == "head"),
    )


def target_rows(
    context: VariantContext, encoder: PromptEncoder, examples: Sequence[Example], head: bool
) -> Sequence[TrainingRow]:
    """Token ids, targets and weights of the examples, for instructions or a head."""
    weights = example_weights(context, examples)
    # Several labels per text have no class weights: a row has many labels and one loss.
    if head and context.label_sets:
        return head_rows(label_set_pairs(examples, encoder, context.label_sets))
    if head:
        return head_rows(class_pairs(examples, encoder), weights)
    return instruction_rows(
        context.task_adapter.training_pairs(examples, encoder), encoder.stop_token_id, weights
    )


def example_weights(context: VariantContext, examples: Sequence[Example]) -> list[float] | None:
    """Class weight of each example; None where there are none."""
    return row_weights(label_weights(context.recipe.class_weights, context.study.train), examples)


def _reward(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    with_reference: bool,
) -> Objective:
    recipe = context.recipe
    # Labels are scored as in prediction, so that what is minimised is the cost of what is
    # predicted.
    labels = ScoredLabels.of(
        encoder.prefix,
        encoder.label_ids,
        encoder.stop_token_id,
        normalize=recipe.scoring.normalize == "length",
    )
    # Without costs every error costs 1: the loss is then the expected error rate.
    costs = error_cost_matrix(recipe.costs, context.study.labels)
    module = RewardModule(
        model, labels, torch.tensor(costs, dtype=torch.float32), variant.beta or 0.0
    )

    def rows(examples: Sequence[Example], _: SplitName) -> Sequence[RewardRow]:
        pairs = [*class_pairs(examples, encoder)]
        if with_reference and needs_reference(recipe, variant):
            reference = reference_log_probs(context, encoder, model, [ids for ids, _ in pairs])
        else:
            # Not read without a penalty.
            reference = [[0.0] * len(encoder.label_ids)] * len(pairs)
        return reward_rows(pairs, reference, example_weights(context, examples))

    return Objective(module, rows, reward_collator(labels))


def _answer_reward(
    context: VariantContext, variant: Variant, encoder: PromptEncoder, model: nn.Module
) -> Objective:
    recipe = context.recipe
    sampling = Sampling(
        encoder.prefix,
        encoder.stop_token_id,
        recipe.answering.max_new_tokens,
        variant.samples or DEFAULT_SAMPLES,
    )
    module = AnswerRewardModule(
        model,
        sampling,
        answer_reward(recipe, variant, encoder),
        DEFAULT_REWARD_BETA if variant.beta is None else variant.beta,
    )

    def rows(examples: Sequence[Example], split: SplitName) -> Sequence[AnswerRewardRow]:
        # An answer from several windows is the best of several prompts, and has no single prompt.
        windows = ((encoder.sliding_windows(e.inputs), e.references or ()) for e in examples)
        made = answer_reward_rows(
            (own[0].token_ids, references) for own, references in windows if len(own) == 1
        )
        if split == "train" and not made:
            raise UsageError(
                "objective: reward has no questions: the context of every training question needs "
                "several windows. Raise prompt.max_length"
            )
        return made

    return Objective(module, rows, answer_reward_collator)


def _preference(
    context: VariantContext,
    variant: Variant,
    encoder: PromptEncoder,
    model: nn.Module,
    with_reference: bool,
) -> Objective:
    module = PreferenceModule(model, DEFAULT_BETA if variant.beta is None else variant.beta)
    collator = preference_collator(encoder.prefix, module.packed, module.pad_multiple)
    # Timing a training needs rows of the right lengths only, not the model's own choices.
    scorer = model if with_reference else None

    def pairs(examples: Sequence[Example], split: SplitName) -> Iterator[PreferenceRow]:
        if variant.pairs is not None:
            return file_pairs(context, encoder, context.base / variant.pairs, split)
        if context.recipe.has_labels:
            weights = example_weights(context, examples)
            return label_pairs(context, encoder, scorer, examples, weights)
        return answer_pairs(context, encoder, scorer, examples)

    def rows(examples: Sequence[Example], split: SplitName) -> Sequence[PreferenceRow]:
        # Before the reference: the model's own answers come from the same starting weights.
        made = DiskBackedList(pairs(examples, split))
        # Validation rows may have no pairs; training rows must.
        if split == "train":
            require_pairs(made, str(variant.start_from or variant.objective))
        if not with_reference:
            return made
        return DiskBackedList(with_reference_policy(module, made, collator, device_of(model)))

    return Objective(module, rows, collator)


def reference_log_probs(
    context: VariantContext, encoder: PromptEncoder, model: nn.Module, rows: Sequence[list[int]]
) -> list[list[float]]:
    """Log-probabilities of the labels under a model, [rows, labels], as predictions have them.

    Args:
        context: the study.
        encoder: renders the prompts.
        model: a causal model.
        rows: token ids of the prompts after the shared prefix.
    """
    was_training = model.training
    model.eval()
    scores = label_scores(
        model, encoder, rows, context.recipe.scoring, description="reference probabilities"
    )
    model.train(was_training)
    # Over the label set, as the policy that the loss normalises.
    result: list[list[float]] = scores.log_softmax(1).tolist()
    return result
