"""The last stages of a study: scores and report, and the bundle."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.evaluation.costs import cost_scores, with_costs
from prooftune.evaluation.decisions import apply_error_costs
from prooftune.evaluation.measurements import tidy
from prooftune.evaluation.repeated_trainings import shipped_training
from prooftune.evaluation.score_types import CostScores, Scores, VariantMeasurements, defined
from prooftune.models.environment import describe_environment
from prooftune.recipe import Recipe
from prooftune.recipe.consistency import BEST
from prooftune.recipe.variants import VARIANT_KINDS
from prooftune.report.types import ReportedVariant, ReportFacts
from prooftune.study.error_analysis import analyse_errors
from prooftune.study.label_errors import search_label_errors
from prooftune.study.learning_curve import CurveResults, fit_learning_curves
from prooftune.study.search import read_search
from prooftune.types import Study, VariantResult
from prooftune.utils.files import read_json, write_json
from prooftune.utils.secrets import redact
from prooftune.version import __version__


def evaluate(
    recipe: Recipe,
    study: Study,
    results: list[VariantResult],
    folder: Path,
    base: Path,
    bundled: str | None = None,
    curves: CurveResults | None = None,
) -> tuple[Scores, CostScores]:
    """Score every variant, compare them in pairs, run the judge if there is one, and write the
    report.

    Args:
        recipe: the recipe.
        study: the data.
        results: the predictions of every variant.
        folder: the run folder.
        base: folder against which the recipe's relative paths are resolved.
        bundled: the variant whose bundle exists, and that is therefore judged. Default: the
            recipe's, or the best on validation rows.
        curves: results on shares of the training rows, for learning curves.

    Returns:
        The scores, which are the same for the same predictions; and the costs, which are measured
        times and differ between runs.
    """
    from prooftune.report.build import write_report

    curves = [
        (
            name,
            [
                replace(s, result=apply_error_costs(recipe, study, [s.result])[1][0])
                for s in subsets
            ],
        )
        for name, subsets in curves or []
    ]
    study, results = apply_error_costs(recipe, study, results)
    if recipe.task == "classification":
        from prooftune.evaluation.scores import score

        scores = score(
            study,
            results,
            recipe.evaluation,
            recipe.seed,
            bundled=bundled or recipe.bundle.variant,
        )
    elif recipe.task == "multilabel":
        from prooftune.evaluation.multilabel.scores import score_label_sets

        shipped = bundled or recipe.bundle.variant
        scores = score_label_sets(study, results, recipe.evaluation, recipe.seed, shipped)
    else:
        from prooftune.evaluation.answers.scores import score_answers

        scores = score_answers(study, results, recipe, bundled=bundled)
    if recipe.judge is not None:
        from prooftune.judge.study import judge_study

        # One training of each variant: judging all would multiply the requests.
        judged = [shipped_training(r, scores["variants"][r.name]) for r in results]
        scores["judge"] = judge_study(
            recipe, recipe.judge, study, judged, scores, folder / "judge", base
        )
    scores["search"] = tidy(read_search(recipe, folder)) or None
    scores["learning_curve"] = tidy(fit_learning_curves(recipe, study, results, curves, scores))
    scores["errors"] = tidy(analyse_errors(recipe, study, results, scores))
    scores["label_errors"] = tidy(search_label_errors(recipe, study, results, scores, folder))
    # Before the page, so that the figures are there even if rendering fails.
    write_json(folder / "scores.json", scores)
    details = {r.name: _details(r, scores["variants"][r.name]) for r in results}
    price = recipe.cost.machine_per_hour
    costs: CostScores = tidy(cost_scores(details, scores, price, recipe.cost_currency()))
    report: ReportFacts = {
        "name": recipe.name,
        # Reports are passed on, and a recipe may hold keys.
        "recipe": redact(recipes.dump(recipe)),
        "scores": with_costs(scores, costs),
        "notes": study.notes,
        "seed": recipe.seed,
        "audit": run_folder.read_audit(folder),
        "prooftune_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "variants": details,
        "environment": describe_environment(recipe.base_models().values()),
    }
    # Of exactly this recipe, if `prooftune check` has run.
    estimates_file = run_folder.estimates_path(recipes.dump(recipe))
    if estimates_file.is_file():
        report["estimates"] = {
            name: {**estimate, "seconds": estimate["train_seconds"] + estimate["score_seconds"]}
            for name, estimate in read_json(estimates_file).items()
        }
    write_report(report, folder)
    return scores, costs


def _details(result: VariantResult, variant: VariantMeasurements) -> ReportedVariant:
    """What a variant recorded about itself: of the training that ships, with the training costs of
    all trainings together, and the records of all of them."""
    details: ReportedVariant = {"kind": result.kind}
    details.update(shipped_training(result, variant).details)  # type: ignore[typeddict-item]
    if not result.repeats:
        return details
    costs = [training.details["cost"] for training in result.trainings]
    cost = details["cost"].copy()
    cost["train_seconds"] = sum(c["train_seconds"] for c in costs)
    cost["train_tokens"] = sum(c.get("train_tokens", 0) for c in costs)
    # Trainings run one after another, so their memory does not add up.
    cost["peak_memory_bytes"] = max(c["peak_memory_bytes"] for c in costs)
    details["cost"], details["trainings"] = cost, [t.details for t in result.trainings]
    return details


def shipped_variant(recipe: Recipe, scores: Scores) -> str | None:
    """Name of the variant to bundle: see `recipe.sections.Bundle.variant`.

    Returns:
        None if nothing was tuned and the recipe names no variant.
    """
    named = recipe.bundle.variant
    if named is None:
        judged: str | None = scores["verdict"]["best_tuned"]
        return judged
    # A variant may itself have the name that stands for the best one.
    if named in recipe.variants or named != BEST:
        return named
    able = [name for name, variant in recipe.variants.items() if recipe.can_ship(variant)]
    # `VARIANT_KINDS` goes from the cheapest to the dearest.
    by_cost = sorted(able, key=lambda name: VARIANT_KINDS.index(recipe.variants[name].kind))

    def quality(name: str) -> float:
        variant = scores["variants"][name]
        on_validation = variant.get("validation_quality")
        test = defined(variant["metrics"][scores["primary"]])["value"]
        return float(test if on_validation is None else on_validation)

    # max() returns the first of equally good variants, which is the cheapest.
    return max(by_cost, key=quality, default=None)


def bundle_variant(
    recipe: Recipe, study: Study, results: list[VariantResult], scores: Scores, folder: Path
) -> Path | None:
    """Bundle the variant that ships, of several trainings the best on validation rows; None if no
    variant ships."""
    shipped = shipped_variant(recipe, scores)
    if shipped is None:
        return None
    from prooftune.bundle.save import save_bundle

    result = next(result for result in results if result.name == shipped)
    training = shipped_training(result, scores["variants"][shipped])
    save_bundle(recipe, study, training, scores, folder / "bundle")
    return folder / "bundle"
