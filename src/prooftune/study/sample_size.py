"""What a small test set can show, said before anything is computed."""

from __future__ import annotations

from prooftune.data.audit.findings import Finding
from prooftune.evaluation.comparison_plan import pairs
from prooftune.evaluation.power import detectable_difference, shared_errors
from prooftune.recipe import Recipe
from prooftune.types import Study

FEW_ROWS = 200
"""Test rows below which `check` warns: with fewer, differences under about 10 points stay open."""
ACCURACY = 0.7
"""Assumed accuracy of the weaker variant. Nearer to 100%, smaller differences can be shown."""
AGREEMENT = 0.5
"""Assumed overlap of the errors of two variants; the middle of `prooftune power`."""
LEVEL = 0.05
"""Of all tests of the study together."""


def few_test_rows(recipe: Recipe, study: Study) -> list[Finding]:
    """A warning on a test set that can only show large differences.

    The smallest difference that McNemar's exact test finds with a probability of 80% at the 5%
    level, divided by the number of comparisons, for assumed accuracy and agreement
    (`evaluation.power`). A row counts as right or wrong, also where the study has a finer measure.

    Args:
        recipe: for the names of what is tested.
        study: after all drops and limits.
    """
    rows = len(study.test)
    if rows >= FEW_ROWS or len(recipe.variants) < 2:
        return []
    unit = "row" if recipe.has_labels else "question"
    count = f"{rows} test {unit}{'s' if rows != 1 else ''}"
    comparisons = len(pairs({name: v.kind for name, v in recipe.variants.items()}))
    command = f"prooftune power --accuracy {ACCURACY} --rows {rows} --comparisons {comparisons}"
    # The first and hardest step of Holm's procedure.
    difference = detectable_difference(rows, ACCURACY, AGREEMENT, LEVEL / comparisons)
    level = f"level {LEVEL:.0%}"
    if comparisons > 1:
        level += f" over {comparisons} comparisons"
    if difference is None:
        message = (
            f"{count} {'are' if rows != 1 else 'is'} too few: even a variant without errors would "
            f"not be shown to be better than one with an accuracy of {ACCURACY:.0%} (power 80%, "
            f"{level}). Other cases: {command}"
        )
    else:
        message = (
            f"{count} can only show differences of about {100 * difference:.0f} points or more, if "
            f"the weaker variant has an accuracy of {ACCURACY:.0%} and makes "
            f"{shared_errors(ACCURACY, AGREEMENT):.0%} of the better one's errors, too (power 80%, "
            f"{level}). Other cases: {command}"
        )
    return [Finding("few-test-rows", "warning", message)]
