"""Checks of the hyperparameter search: its library, and whether its values can be trained with."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

from prooftune.evaluation.score_types import HyperparameterValue
from prooftune.preflight.findings import Finding, error
from prooftune.recipe import Recipe
from prooftune.recipe.search import SearchRange
from prooftune.search.space import space_of, with_values


def check_search(recipe: Recipe) -> Iterator[Finding]:
    """Refuse a search without Optuna, and values that a training would refuse."""
    if recipe.search is None:
        return
    if importlib.util.find_spec("optuna") is None:
        yield error("search", "needs Optuna: pip install 'prooftune[search]'")
    # Imported here: torch is not needed for recipes without a search.
    from prooftune.preflight.lora import check_lora
    from prooftune.preflight.training import check_training

    for name in recipe.searched_variants():
        view, variant = recipe.for_variant(name), recipe.variants[name]
        for values in _extremes(space_of(variant, recipe.search.space)):
            changed = with_values(variant, values)
            result = list(check_training(view, name, changed))
            if changed.method != "full":
                result += check_lora(name, changed, view)
            for finding in result:
                key = finding.key_path.removeprefix(f"variants.{name}.")
                # Other keys are reported for the variant itself.
                if finding.severity == "error" and (key in values or key in ("training", "lora")):
                    shown = ", ".join(f"{k}: {v}" for k, v in values.items())
                    yield error(f"search.space.{key}", f"{finding.message} (with {shown})")


def _extremes(space: Mapping[str, SearchRange]) -> Iterator[dict[str, HyperparameterValue]]:
    """Both ends of every range, and every choice, one hyperparameter at a time."""
    for key, entry in space.items():
        for value in entry.choices or (entry.low, entry.high):
            yield {key: value}
