"""The last stages of a study: scores and report, and the bundle."""

from __future__ import annotations

import datetime
from pathlib import Path

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.evaluation.score_types import Scores
from prooftune.models.environment import describe_environment
from prooftune.recipe import Recipe
from prooftune.report.types import ReportFacts
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
) -> Scores:
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
    """
    from prooftune.report.build import write_report

    if recipe.task == "classification":
        from prooftune.evaluation.scores import score

        scores = score(
            study,
            results,
            recipe.evaluation,
            recipe.seed,
            bundled=bundled or recipe.bundle.variant,
        )
    else:
        from prooftune.evaluation.answers.scores import score_answers

        scores = score_answers(study, results, recipe, bundled=bundled)
    if recipe.judge is not None:
        from prooftune.judge.study import judge_study

        scores["judge"] = judge_study(
            recipe, recipe.judge, study, results, scores, folder / "judge", base
        )
    write_json(folder / "scores.json", scores)
    report: ReportFacts = {
        "name": recipe.name,
        "recipe": redact(recipes.dump(recipe)),
        "scores": scores,
        "notes": study.notes,
        "seed": recipe.seed,
        "audit": read_json(folder / "data" / "audit.json"),
        "prooftune_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "variants": {r.name: {"kind": r.kind, **r.details} for r in results},
        "environment": describe_environment(recipe.base_models().values()),
    }
    estimates_file = run_folder.estimates_path(recipes.dump(recipe))
    if estimates_file.is_file():
        report["estimates"] = {
            name: {**estimate, "seconds": estimate["train_seconds"] + estimate["score_seconds"]}
            for name, estimate in read_json(estimates_file).items()
        }
    write_report(report, folder)
    return scores


def bundle_judged_variant(
    recipe: Recipe, study: Study, results: list[VariantResult], scores: Scores, folder: Path
) -> Path | None:
    """Bundle the tuned variant that the verdict is about; None if nothing was tuned."""
    judged = scores["verdict"]["best_tuned"]
    if judged is None:
        return None
    from prooftune.bundle.save import save_bundle

    result = next(result for result in results if result.name == judged)
    save_bundle(recipe, study, result, scores, folder / "bundle")
    return folder / "bundle"
