"""The label that a variant decides for where errors have costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from prooftune.evaluation.calibrated_figures import calibrate
from prooftune.evaluation.calibration import apply_temperature
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.recipe import Recipe
from prooftune.types import Prediction, Study, VariantResult
from prooftune.utils.error_costs import error_cost_matrix, least_cost


def apply_error_costs(
    recipe: Recipe, study: Study, results: Sequence[VariantResult]
) -> tuple[Study, list[VariantResult]]:
    """The study with the recipe's costs of errors, and results with the decisions that they call
    for; both unchanged where errors have no costs."""
    # Costs are a part of the study: every figure and the bundle read them there.
    if recipe.costs is None:
        return study, list(results)
    study = replace(study, costs=error_cost_matrix(recipe.costs, study.labels).tolist())
    by_cost = [name for name, v in recipe.variants.items() if recipe.decides_by_cost(v)]
    return study, with_decisions(study, results, by_cost)


def with_decisions(
    study: Study, results: Sequence[VariantResult], by_cost: Collection[str]
) -> list[VariantResult]:
    """Results in which some variants decide for the label of least expected cost (Bayes decision).

    The expectation is over probabilities after temperature scaling, which validation rows fit. A
    variant without probabilities keeps its labels.

    Args:
        study: with costs.
        results: predictions of every variant.
        by_cost: names of the variants that decide by cost.

    Raises:
        Failure: the predictions are not comparable (see `outcomes_of`).
    """
    return [
        replace(
            _decided(study, result),
            repeats=tuple(_decided(study, repeat) for repeat in result.repeats),
        )
        if result.name in by_cost
        else result
        for result in results
    ]


def _decided(study: Study, result: VariantResult) -> VariantResult:
    # Validation rows alone fit the temperature: test rows must not decide how they are labelled.
    [[(test, validation)]] = outcomes_of(study, [replace(result, repeats=())]).values()
    temperature = calibrate(test, validation).temperature or 1.0
    return replace(
        result,
        test=least_cost_predictions(result.test, study, temperature),
        validation=least_cost_predictions(result.validation, study, temperature),
    )


def least_cost_predictions(
    predictions: Sequence[Prediction], study: Study, temperature: float
) -> list[Prediction]:
    """The predictions with the label of least expected cost, where they have probabilities."""
    # Endpoints without log-probabilities, and generated labels.
    if not predictions or not all(p.log_probs for p in predictions):
        return list(predictions)
    log_probs = apply_temperature(np.array([p.log_probs for p in predictions]), temperature)
    # Miscalibrated probabilities would be trusted too much where errors are expensive.
    chosen = least_cost(np.exp(log_probs), np.array(study.costs))
    return [
        replace(p, output=study.labels[number])
        for p, number in zip(predictions, chosen.tolist(), strict=True)
    ]
