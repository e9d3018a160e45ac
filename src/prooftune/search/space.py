"""The search space: recipe ranges as Optuna's distributions, and values put into a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prooftune.evaluation.score_types import HyperparameterValue
from prooftune.recipe import Variant
from prooftune.recipe.search import SearchRange, is_whole

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SIGNIFICANT_DIGITS = 3
"""Digits of sampled numbers: a reader can repeat a training with the value that a report shows."""


def distributions(space: Mapping[str, SearchRange]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every hyperparameter."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    by_key: dict[str, BaseDistribution] = {}
    for key, entry in space.items():
        if entry.low is None or entry.high is None:
            by_key[key] = CategoricalDistribution(entry.choices or [])
        elif is_whole(key):
            by_key[key] = IntDistribution(int(entry.low), int(entry.high), log=entry.is_logarithmic)
        else:
            by_key[key] = FloatDistribution(entry.low, entry.high, log=entry.is_logarithmic)
    return by_key


def rounded(
    params: Mapping[str, HyperparameterValue], space: Mapping[str, SearchRange]
) -> dict[str, HyperparameterValue]:
    """Sampled values with `SIGNIFICANT_DIGITS`, within their ranges."""
    values: dict[str, HyperparameterValue] = {}
    for key, value in params.items():
        low, high = space[key].low, space[key].high
        if isinstance(value, float) and low is not None and high is not None:
            value = min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), float(low)), float(high))
        values[key] = value
    return values


def with_values(variant: Variant, values: Mapping[str, HyperparameterValue]) -> Variant:
    """The variant with these hyperparameters among its own ``training`` and ``lora`` options.

    LoRA options are left out where all weights are trained.
    """
    options = {"training": dict(variant.training), "lora": dict(variant.lora)}
    for key, value in values.items():
        section, _, field = key.partition(".")
        options[section][field] = value
    if variant.method == "full":
        options["lora"] = dict(variant.lora)
    return variant.model_copy(update=options)


def space_of(variant: Variant, space: Mapping[str, SearchRange]) -> dict[str, SearchRange]:
    """The part of the space that applies to a variant: without LoRA where all weights are
    trained."""
    return {
        key: entry
        for key, entry in space.items()
        if variant.method != "full" or not key.startswith("lora.")
    }
