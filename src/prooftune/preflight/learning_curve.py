"""Checks of the learning curve's shares against the training rows."""

from __future__ import annotations

from collections.abc import Iterator

from prooftune.preflight.findings import Finding, error
from prooftune.recipe import Recipe
from prooftune.types import Study


def check_learning_curve(recipe: Recipe, study: Study) -> Iterator[Finding]:
    """Refuse shares with fewer rows than labels, and shares with the same number of rows."""
    settings = recipe.learning_curve
    if settings is None:
        return
    total, labels = len(study.train), len(study.strata())
    sizes = [round(share * total) for share in settings.shares]
    small = [(share, n) for share, n in zip(settings.shares, sizes, strict=True) if n < labels]
    if small:
        share, n = small[0]
        yield error(
            "learning_curve.shares",
            f"{share:g} of {total:,} training rows are {n}, fewer than the {labels} labels; use "
            f"shares of at least {labels / max(1, total):.2g}, or more rows",
        )
    fewer = [n for n in settings.extrapolate or () if n <= total]
    if fewer:
        yield error(
            "learning_curve.extrapolate",
            f"{fewer[0]:,} rows are not more than the {total:,} training rows",
        )
    if not small and len(set(sizes)) < len(sizes):
        yield error(
            "learning_curve.shares",
            f"two shares of {total:,} training rows have the same number of rows "
            f"({', '.join(f'{n:,}' for n in sizes)})",
        )
