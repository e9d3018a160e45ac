"""The variants of a recipe whose trainings are checked."""

from __future__ import annotations

from prooftune.recipe import Recipe, Variant


def trained(recipe: Recipe) -> list[tuple[str, Variant]]:
    """The variants that are trained, with the options that they inherit."""
    return [
        (n, recipe.resolved(v))
        for n, v in recipe.variants.items()
        if v.kind == "tuned" and not v.adapter
    ]


def encoders(recipe: Recipe) -> list[tuple[str, Variant]]:
    """The variants of kind: encoder."""
    return [(n, v) for n, v in recipe.variants.items() if v.kind == "encoder"]
