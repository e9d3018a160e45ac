"""Parts of a study's scores that all tasks have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.comparison_plan import Measured, Plan
from prooftune.evaluation.comparisons import compare
from prooftune.evaluation.languages import LanguageRows, language_figures, partly_trained
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.score_types import (
    GroupFacts,
    Measurements,
    OutputCounts,
    VariantMeasurements,
)
from prooftune.recipe import Evaluation
from prooftune.recipe.data import Task
from prooftune.types import Prediction, Study, VariantResult


def study_measurements(
    task: Task,
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    plan: Plan,
    groups: GroupFacts | None,
    support: Mapping[str, int],
    variants: dict[str, VariantMeasurements],
    measured: Mapping[str, Measured],
    measure_rows: Callable[[NDArray[np.bool_], Groups | None], LanguageRows],
    notes: Sequence[str] = (),
) -> Measurements:
    """Figures of all variants, their comparisons, and the test set.

    Args:
        task: of the recipe.
        study: the data.
        results: predictions of every variant.
        settings: of the evaluation.
        plan: of the comparisons.
        groups: of the test rows (`group_facts`).
        support: stratum -> test rows.
        variants: figures of every variant.
        measured: what the comparisons need of every variant.
        measure_rows: measures some of the test rows, bool [n], with their groups.
        notes: sentences on the data and on the choice of the metric.
    """
    return {
        "task": task,
        "primary": plan.primary,
        "primary_title": title_of(plan.primary),
        "worthwhile": plan.worthwhile,
        "n": len(study.test),
        "groups": groups,
        "validation_n": len(study.validation),
        "seed": plan.seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "simultaneous_confidence": plan.simultaneous,
        "labels": list(study.labels),
        "support": dict(support),
        "notes": list(notes),
        "variants": variants,
        "comparisons": compare(plan, measured),
        "languages": language_figures(study, results, plan, measure_rows),
    }


def compared_systems(results: Sequence[VariantResult], bundled: str | None) -> dict[str, str]:
    """Kinds of the variants that are compared with one another: those without a language are only
    compared with the same variant with it, on the rows of that language, unless they ship."""
    partly = {*partly_trained(results)} - {bundled}
    whole = {r.name: r.kind for r in results if r.name not in partly}
    return whole or {r.name: r.kind for r in results}


def group_facts(groups: Groups | None, grouped_by: str) -> GroupFacts | None:
    """How many groups there are, what makes them and how large the largest is; None without."""
    if groups is None:
        return None
    sizes = np.bincount(groups.index)
    return {"count": groups.count, "by": grouped_by, "largest": int(sizes.max())}


def output_counts(predictions: Sequence[Prediction]) -> OutputCounts:
    """Invalid and truncated outputs, and tokens, of predictions."""
    return {
        "invalid": sum(not p.valid for p in predictions),
        "truncated": sum(p.truncated_tokens > 0 for p in predictions),
        "truncated_tokens": sum(p.truncated_tokens for p in predictions),
        "prompt_tokens": sum(p.prompt_tokens for p in predictions),
    }


def tidy(value: object) -> Any:
    """Make a value JSON-ready: floats to 6 significant digits, NaN and infinities to None, no
    NumPy."""
    if isinstance(value, Mapping):
        return {str(k): tidy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(v) for v in value]
    # `json` refuses NumPy's float32 and int64; float64 is a float already.
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has no NaN: Python would write one that browsers and `jq` cannot read.
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
