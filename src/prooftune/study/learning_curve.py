"""Learning curves of a study: variants trained on nested shares of the training rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prooftune import run_folder
from prooftune.data.sampling import stratified_sample
from prooftune.evaluation.learning_curve import FAMILIES, Points, fit_curve
from prooftune.evaluation.metrics import Floats, columns, rates, sums
from prooftune.evaluation.outcomes import groups_in_test, outcomes_of
from prooftune.evaluation.repeated_trainings import shipped_training
from prooftune.evaluation.resampling import resample
from prooftune.evaluation.score_types import (
    CurveExtrapolation,
    CurvePoint,
    LearningCurves,
    Scores,
    VariantCurve,
)
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.variant_options import CHEAP_KINDS
from prooftune.study.variant_stage import VariantStage
from prooftune.tasks.task import task_for
from prooftune.types import Example, Study, VariantResult
from prooftune.utils.files import fingerprint
from prooftune.utils.progress import notify

FOLDER = "learning_curve"
DEFAULT_SUBSET_SD = 0.007
"""Standard deviation between training subsets, where no variant was trained on several."""


@dataclass(frozen=True, slots=True)
class SubsetResult:
    """A variant's result on one subset of the training rows."""

    share: float
    subset: int
    rows: int
    result: VariantResult


CurveResults = list[tuple[str, list[SubsetResult]]]
"""Variant and its results on all subsets below the whole."""


def run_learning_curve(stage: VariantStage) -> CurveResults:
    """Train every variant of the curve on every share below 1, each a stage of the run folder.

    Args:
        stage: of the study; its data, models and folder.
    """
    recipe = stage.recipe
    found: CurveResults = []
    for name in recipe.curve_variants():
        with _shared_vectors(recipe.variants[name]):
            found.append((name, _run_subsets(stage, name)))
    return found


def _shared_vectors(variant: Variant) -> AbstractContextManager[None]:
    """All subsets have the same test rows, and share training rows: embed each once."""
    if variant.kind != "embedding":
        return nullcontext()
    from prooftune.models.embeddings import cached_vectors

    return cached_vectors()


def _run_subsets(stage: VariantStage, name: str) -> list[SubsetResult]:
    recipe, results = stage.recipe, []
    for share, subset, rows in _subsets(recipe, stage.study, name):
        title = _title(share, subset)
        notify(f"learning curve: {name} on {len(rows):,} training rows ({title})", "dim")
        part = replace(
            stage,
            # One training for each subset: the spread between subsets includes that of trainings.
            recipe=_trained_once(recipe),
            study=replace(stage.study, train=rows),
            # Subsets are stages of their own: a changed share trains only what is new.
            data_fingerprint=fingerprint([stage.data_fingerprint, share, subset]),
            folder=stage.folder / FOLDER / title,
            with_latency=False,  # that of all training rows is the variant's
        )
        result = part.run(name, part.recipe.variants[name])
        results.append(SubsetResult(share, subset, len(rows), result))
    return results


def read_learning_curve(recipe: Recipe, study: Study, folder: Path) -> CurveResults:
    """What `run_learning_curve` left in a finished run's folder; empty if a part is missing."""
    found: CurveResults = []
    for name in recipe.curve_variants():
        results = []
        for share, subset, rows in _subsets(recipe, study, name):
            path = folder / FOLDER / _title(share, subset) / "variants" / name
            if not (path / "details.json").is_file():
                # A curve that lacks a part would be fitted to other points than the finished run's.
                return []
            result = run_folder.read_result(path, recipe.variants[name].system)
            results.append(SubsetResult(share, subset, len(rows), result))
        found.append((name, results))
    return found


def _title(share: float, subset: int) -> str:
    return f"{share:g}-subset-{subset + 1}" if subset else f"{share:g}"


def _trained_once(recipe: Recipe) -> Recipe:
    variants = {n: v.model_copy(update={"seeds": None}) for n, v in recipe.variants.items()}
    return recipe.model_copy(update={"seeds": 1, "variants": variants})


def _subsets(
    recipe: Recipe, study: Study, name: str
) -> Iterator[tuple[float, int, Sequence[Example]]]:
    """Share, number of the subset and its training rows: from the largest share to the smallest,
    each a part of the one before."""
    settings = recipe.learning_curve
    if settings is None:
        return
    cheap = recipe.variants[name].kind in CHEAP_KINDS
    for subset in range(settings.subsets if cheap else 1):
        rows = study.train
        for share in reversed(settings.shares[:-1]):
            size = round(share * len(study.train))
            rows = stratified_sample(rows, size, recipe.seed + 1_000 * subset)
            yield share, subset, rows


def fit_learning_curves(
    recipe: Recipe,
    study: Study,
    results: Sequence[VariantResult],
    parts: CurveResults,
    scores: Scores,
) -> LearningCurves | None:
    """Fit every variant's curve in the primary metric (F1 of the words for answers).

    Args:
        recipe: the recipe.
        study: the data.
        results: of the study itself, which is the share 1.
        parts: from `run_learning_curve`.
        scores: of the study.
    """
    if not parts:
        return None
    whole = {r.name: shipped_training(r, scores["variants"][r.name]) for r in results}
    measured = {
        name: [*subsets, SubsetResult(1.0, 0, len(study.train), replace(whole[name], repeats=()))]
        for name, subsets in parts
    }
    samples = {name: _samples(recipe, study, found, scores) for name, found in measured.items()}
    # Variants without a spread get the largest one: too wide an interval is no false claim.
    known = [sd for name, found in measured.items() if (sd := _subset_sd(found, samples[name]))]
    fallback = max(known, default=DEFAULT_SUBSET_SD)
    curves = {}
    for name, found in measured.items():
        own = _subset_sd(found, samples[name])
        curves[name] = _variant_curve(recipe, found, samples[name], own or fallback, scores)
    is_classification = recipe.task == "classification"
    return {
        "metric": scores["primary_title"] if is_classification else "F1",
        "rows": len(study.train),
        "variants": curves,
    }


def _samples(
    recipe: Recipe, study: Study, found: Sequence[SubsetResult], scores: Scores
) -> tuple[Floats, Floats]:
    """The metric of every result, [M], and on bootstrap resamples of the test rows, [R, M]."""
    groups, _ = groups_in_test(study)
    if recipe.task == "classification":
        # Numbered, since all subsets belong to one variant and outcomes are stored by name.
        named = [replace(s.result, name=str(i), repeats=()) for i, s in enumerate(found)]
        arrays = outcomes_of(study, named)
        tables = [columns(arrays[r.name][0][0].with_log_probs(None)) for r in named]
        first = arrays[named[0].name][0][0]

        def metric(summed: Floats) -> Floats:
            total = sums(summed, first.classes, first.scale, first.costs)
            return np.asarray(rates(total)[scores["primary"]])

    else:
        task = task_for(recipe)
        tables = [
            np.array(
                [[1.0, task.quality(p, e)] for p, e in zip(s.result.test, study.test, strict=True)]
            )
            for s in found
        ]

        def metric(summed: Floats) -> Floats:
            return np.asarray(summed[..., 1] / summed[..., 0])

    # All points on the same resamples: they share test rows, and the fit needs their covariance.
    drawn = resample(tables, scores["resamples"], scores["seed"], groups)
    values = np.array([float(metric(table.sum(axis=0))) for table in tables])
    return values, np.stack([metric(part.bootstrap) for part in drawn], axis=1)


def _subset_sd(found: Sequence[SubsetResult], samples: tuple[Floats, Floats]) -> float | None:
    """Standard deviation between subsets of one size, pooled over sizes; None without several."""
    values, _ = samples
    variances, freedom = 0.0, 0
    for share in {s.share for s in found}:
        # Within one size only: differences between sizes are the curve itself.
        own = values[[i for i, s in enumerate(found) if s.share == share]]
        if len(own) > 1:
            variances += float(own.var(ddof=1)) * (len(own) - 1)
            freedom += len(own) - 1
    return float(np.sqrt(variances / freedom)) if freedom else None


def _extrapolated_rows(recipe: Recipe, rows: int) -> list[int]:
    """Numbers of training rows whose results are predicted, ascending; the first is twice those of
    the study."""
    settings = recipe.learning_curve
    named = settings.extrapolate if settings is not None else None
    return [2 * rows, *sorted({*(named or [4 * rows])} - {2 * rows})]


def _variant_curve(
    recipe: Recipe,
    found: Sequence[SubsetResult],
    samples: tuple[Floats, Floats],
    subset_sd: float,
    scores: Scores,
) -> VariantCurve:
    values, resampled = samples
    shares = sorted({s.share for s in found})
    columns_of = [[i for i, s in enumerate(found) if s.share == share] for share in shares]
    sizes = [found[own[0]].rows for own in columns_of]
    points = Points(
        np.array(sizes, dtype=np.float64),
        np.array([values[own].mean() for own in columns_of]),
        np.stack([resampled[:, own].mean(axis=1) for own in columns_of], axis=1),
        subset_sd,
        np.array([len(own) for own in columns_of], dtype=np.float64),
    )
    curve = fit_curve(points, scores["seed"])
    level = scores["confidence"]
    tail = 100 * (1 - level) / 2
    measured: list[CurvePoint] = []
    for k, share in enumerate(shares):
        low, high = np.percentile(points.samples[:, k], [tail, 100 - tail])
        measured.append(
            {
                "share": share,
                "rows": sizes[k],
                "subsets": int(points.subsets[k]),
                "value": float(points.values[k]),
                "low": float(low),
                "high": float(high),
            }
        )
    extrapolated: list[CurveExtrapolation] = []
    targets = _extrapolated_rows(recipe, sizes[-1])
    for rows in targets:
        gain, gain_low, gain_high = curve.gain(rows, level)
        low, high = curve.interval(rows, level)
        extrapolated.append(
            {
                "rows": rows,
                "value": curve.value(rows),
                "low": low,
                "high": high,
                "gain": {"value": gain, "low": gain_low, "high": gain_high},
            }
        )
    # Enough points for a smooth line on a logarithmic axis.
    line = np.geomspace(sizes[0], max(targets), 41)
    return {
        "points": measured,
        "extrapolated": extrapolated,
        "line": [
            {"rows": float(n), "value": curve.value(n), "low": low, "high": high}
            for n in line
            for low, high in [curve.band(n, level)]
        ],
        "weights": {family: curve.weights[family] for family in FAMILIES},
        "subset_sd": subset_sd,
    }
