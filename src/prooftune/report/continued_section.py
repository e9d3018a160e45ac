"""The section on variants that train another one's weights further: whether that helped."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.evaluation.score_types import Scores
from prooftune.recipe.data import LABEL_TASKS
from prooftune.report.step_effect import step_effect
from prooftune.report.types import ReportedVariant

_OBJECTIVES = {"reward": "expected cost (reward)", "preference": "preferences (DPO)"}


def continued_sentences(scores: Scores, details: Mapping[str, ReportedVariant]) -> list[str]:
    """One sentence for each variant that was trained further: whether it helped beyond the variant
    that it continues from; empty without any."""
    return [
        _sentence(scores, name, variant, source)
        for name, variant in details.items()
        if (source := variant.get("continues")) is not None
    ]


def _sentence(scores: Scores, name: str, variant: ReportedVariant, source: str) -> str:
    objective = _OBJECTIVES[variant["objective"]]
    if variant["objective"] == "reward" and scores["task"] not in LABEL_TASKS:
        objective = "rewards of sampled answers (GRPO)"
    trained = f"{source} was trained further on {objective} as {name}"
    effect, figures = step_effect(scores, name, source)
    if effect is None:
        return f"{trained}; the two were not compared."
    if effect == "not shown":
        return f"{trained}, which cannot be told apart from {source}: {figures}."
    return f"{trained}; it {effect}: {figures}."
