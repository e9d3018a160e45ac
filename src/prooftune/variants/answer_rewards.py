"""Rewards of sampled answers, by the metrics that evaluate the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prooftune.evaluation.answers import squad
from prooftune.evaluation.metrics import Floats
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.metrics import REWARD_METRICS
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.tasks.question_answering import answer_from_text
from prooftune.training.answer_reward import References, Reward
from prooftune.types import Example

DEFAULT_SAMPLES = 8
DEFAULT_BETA = 0.04
"""Factor of the divergence, as in Shao et al. (2024)."""


def reward_weights(recipe: Recipe, variant: Variant) -> Mapping[str, float]:
    """Metric -> weight, by the variant's ``rewards`` or the task's default."""
    if variant.rewards:
        return variant.rewards
    default = "f1" if recipe.task == "extractive-qa" else "rougeL"
    primary = recipe.evaluation.primary
    return {primary if primary in REWARD_METRICS else default: 1.0}


def answer_reward(recipe: Recipe, variant: Variant, encoder: PromptEncoder) -> Reward:
    """The reward of answers as token ids.

    Args:
        recipe: task, and the text for "no answer".
        variant: its ``rewards``.
        encoder: decodes answers.
    """
    weights = reward_weights(recipe, variant)
    extractive = recipe.task == "extractive-qa"

    def reward(ids: Sequence[Sequence[int]], references: Sequence[References]) -> list[float]:
        # As generated answers are read in prediction: citations removed, "no answer" recognised.
        outputs = [
            answer_from_text(
                encoder.decode_answer(list(row)), Example("", {}), recipe.answering, extractive
            ).output
            for row in ids
        ]
        values: list[float] = answer_rewards(outputs, references, weights).tolist()
        return values

    return reward


def answer_rewards(
    outputs: Sequence[str], references: Sequence[References], weights: Mapping[str, float]
) -> Floats:
    """Weighted mean of the metrics of each answer, 0 to 1, [answers].

    Args:
        outputs: the answers; empty for "no answer".
        references: accepted answers to each question; none if it has no answer.
        weights: metric (of `REWARD_METRICS`) -> weight.
    """
    total = np.zeros(len(outputs))
    answerable = np.array([bool(accepted) for accepted in references], dtype=np.bool_)
    # Where there is no answer, all metrics are 1 for an empty output and 0 for another.
    silent = np.array([not output.strip() for output in outputs], dtype=np.float64)
    rouge = _rouge(outputs, references) if any(m.startswith("rouge") for m in weights) else {}
    for metric, weight in weights.items():
        if metric in rouge:
            values = rouge[metric]
        else:
            values = getattr(squad.score(outputs, references), metric)
        total += weight * np.where(answerable, values, silent)
    return total / sum(weights.values())


def _rouge(outputs: Sequence[str], references: Sequence[References]) -> dict[str, Floats]:
    from prooftune.evaluation.answers.overlap import ROUGE, rouge

    # ROUGE needs a reference; the figure of a question without any is not read.
    scores, _ = rouge(outputs, [accepted or ("",) for accepted in references])
    return {name: scores[:, i] for i, name in enumerate(ROUGE)}
