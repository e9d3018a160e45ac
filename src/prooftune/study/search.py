"""Hyperparameter search of a study: every searched variant a stage of the run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.errors import UsageError
from prooftune.evaluation.score_types import HyperparameterValue, SearchResults, VariantSearch
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.search import Search
from prooftune.report.format import duration
from prooftune.study.variant_stage import VariantStage
from prooftune.utils import distributed
from prooftune.utils.files import fingerprint, read_json, write_json, write_text
from prooftune.utils.progress import notify
from prooftune.variants.passages import PassageProvider

FOLDER, FILE, RECIPE = "search", "search.json", "recipe.yaml"


def run_search(stage: VariantStage) -> Recipe:
    """Search the hyperparameters of every variant that the recipe names.

    Test rows are not read: the searched study has none.

    Args:
        stage: of the study.

    Returns:
        The recipe with the chosen values in its variants, and without ``search``. It is also
        written into the run folder, as ``search/recipe.yaml``.

    Raises:
        UsageError: a variant has no validation rows, or none of its trials could be measured.
    """
    recipe, settings = stage.recipe, stage.recipe.search
    if settings is None:
        return recipe
    blind = replace(
        stage,
        # The search cannot see test rows: the study that it gets has none.
        study=replace(stage.study, test=[]),
        # Its own: the provider remembers the passages of a split.
        passages=PassageProvider(recipe, stage.base, stage.folder),
    )
    variants = dict(recipe.variants)
    for name in recipe.searched_variants():
        result = _search_variant(blind, settings, name, variants[name])
        variants[name] = _with_chosen(variants[name], result)
    chosen = recipe.model_copy(update={"variants": variants, "search": None})
    write_text(stage.folder / FOLDER / RECIPE, recipes.dump(chosen))
    return chosen


def _with_chosen(variant: Variant, result: VariantSearch) -> Variant:
    from prooftune.search.space import with_values

    trial = result["trials"][result["chosen"]]
    # The recipe's own values stay as they are, so that nothing is trained again for them.
    return variant if trial["from_recipe"] else with_values(variant, trial["values"])


def _search_variant(
    stage: VariantStage, settings: Search, name: str, variant: Variant
) -> VariantSearch:
    from prooftune.search.optimization import optimize
    from prooftune.search.space import space_of, with_values
    from prooftune.search.trial import Stop, TrialResult, run_trial

    recipe, folder = stage.recipe, stage.folder / FOLDER / name
    space = space_of(variant, settings.space)
    metric = settings.metric_for(recipe.task, recipe.evaluation.primary)
    # More trials or hours continue a search; whatever changes a trial starts another one.
    identity = fingerprint(
        [
            stage.fingerprint(name, variant, 0),
            {key: entry.model_dump() for key, entry in space.items()},
            metric,
            settings.pruning,
        ]
    )
    limits = fingerprint([identity, settings.trials, settings.hours])
    file = folder / FILE
    # A finished search is not repeated, whatever other parts of the recipe change.
    if file.is_file() and read_json(file).get("limits") == limits:
        notify(f"search: {name}: unchanged", "dim")
        known: VariantSearch = read_json(file)["result"]
        return known
    if distributed.world_size() > 1:
        raise UsageError(
            "search runs on one process: start the study without torchrun until the search is "
            "finished, then with it"
        )
    run_folder.begin_stage(folder, identity)
    context, _ = stage.context(name, variant, folder)
    rows = len(context.training_validation)
    if not rows:
        raise UsageError(f"search: no validation rows of the languages of {name}")

    def train(values: dict[str, HyperparameterValue], number: int, stop: Stop) -> TrialResult:
        title = f"{name}: search, trial {number + 1} of {settings.trials}"
        changed = with_values(variant, values)
        return run_trial(context, changed, name, metric, space, stop, title)

    def finished(result: VariantSearch) -> None:
        _notify_trial(name, result)

    result = optimize(settings, space, metric, rows, recipe.seed, folder, train, finished)
    write_json(file, {"limits": limits, "result": result})
    run_folder.finish_stage(folder, identity)
    _notify_chosen(name, result)
    return result


def describe_values(values: dict[str, HyperparameterValue]) -> str:
    """Hyperparameters in one line: ``learning_rate 0.0003, r 16``."""
    return ", ".join(
        f"{key.partition('.')[2]} {f'{value:.3g}' if isinstance(value, float) else value}"
        for key, value in values.items()
    )


def _notify_trial(name: str, result: VariantSearch) -> None:
    trial = result["trials"][-1]
    metric = result["metric"]
    outcome = trial["state"] if trial["value"] is None else f"{metric} {trial['value']:.4g}"
    state = f" ({trial['state']})" if trial["state"] == "stopped" else ""
    source = "the recipe's values: " if trial["from_recipe"] else ""
    notify(
        f"search: {name}: trial {trial['number'] + 1}: {source}{describe_values(trial['values'])}: "
        f"{outcome}{state}, {duration(trial['seconds'])}",
        "dim",
    )


def _notify_chosen(name: str, result: VariantSearch) -> None:
    trial = result["trials"][result["chosen"]]
    seconds = sum(t["seconds"] for t in result["trials"])
    notify(
        f"search: {name}: {describe_values(trial['values'])} of {len(result['trials'])} trials, "
        f"{result['metric']} {trial['value']:.4g} on {result['rows']:,} validation rows, "
        f"{duration(seconds)}"
    )


def read_search(recipe: Recipe, folder: Path) -> SearchResults:
    """What `run_search` left in a run folder; without variants whose search is missing."""
    files = {name: folder / FOLDER / name / FILE for name in recipe.searched_variants()}
    return {name: read_json(file)["result"] for name, file in files.items() if file.is_file()}
