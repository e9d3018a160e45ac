"""Checks of the learning curve's shares against the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log10

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
        problem = f"{share:g} of {total:,} training rows are {n}, fewer than the {labels} labels"
        least = _least_share(labels, total)
        if least < 1:
            way = f"use shares of at least {least:g}, or more rows"
        else:
            way = "a learning curve needs several times as many rows as labels"
        yield error("learning_curve.shares", f"{problem}; {way}")
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


def _least_share(labels: int, total: int) -> float:
    """The smallest share with as many rows as labels, rounded up to two digits."""
    share = labels / max(1, total)
    # Rounded to the nearest, it could name a share with too few rows.
    scale = 10.0 ** (1 - floor(log10(share)))
    return ceil(share * scale) / scale
