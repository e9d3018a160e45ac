"""The stages of a study, in order, over a run folder.

    recipe -> data and audit -> search -> variants -> scores -> report -> bundle

Every stage writes into the run folder and is skipped when its inputs have not changed, so the same
command after a kill continues where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.data import contexts
from prooftune.data.source_files import source_digest
from prooftune.errors import UsageError
from prooftune.evaluation.costs import with_costs
from prooftune.evaluation.score_types import CostScores, Scores
from prooftune.models.environment import compute_settings
from prooftune.models.loading import with_training_dtype
from prooftune.preflight import checker as preflight
from prooftune.recipe import Recipe
from prooftune.study import archive
from prooftune.study.evaluation_stage import bundle_variant, evaluate
from prooftune.study.learning_curve import read_learning_curve, run_learning_curve
from prooftune.study.pretraining import check_texts
from prooftune.study.prompt_lengths import prompt_length_counter
from prooftune.study.search import run_search
from prooftune.study.variant_stage import BaseModelCache, VariantStage
from prooftune.types import SPLITS, Study
from prooftune.utils.files import fingerprint, read_json, write_json, write_text
from prooftune.utils.progress import notify
from prooftune.variants.document_files import searches_contexts
from prooftune.variants.passages import PassageProvider
from prooftune.version import __version__


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a study.

    ``headline`` is the conclusion in a few words ("Fine-tuning helped."), and ``verdict`` the
    sentence with its figures. A notebook displays both and the table of variants.

    Attributes:
        folder: the run folder.
        scores: metrics, comparisons and verdict (see `evaluation.scores.score`), which are the same
            for the same predictions.
        report: path of the report page.
        bundle: the bundle of the variant that ships (the recipe's ``bundle.variant``); None if
            nothing was tuned and the recipe names no variant.
        costs: measured times and prices of predictions.
    """

    folder: Path
    scores: Scores = field(repr=False)
    report: Path
    bundle: Path | None
    costs: CostScores | None = field(default=None, repr=False)

    @property
    def reported_scores(self) -> Scores:
        """The scores with the costs, as the report has them."""
        return with_costs(self.scores, self.costs) if self.costs else self.scores

    @property
    def verdict(self) -> str:
        """The figures behind the headline, in one or two sentences."""
        return self.reported_scores["verdict"]["sentence"]

    @property
    def headline(self) -> str:
        """The conclusion in a few words: whether fine-tuning helped."""
        return self.scores["verdict"]["headline"]

    def _repr_html_(self) -> str:
        """The verdict and the table of variants, which notebooks display."""
        from prooftune.study.notebook import result_html

        return result_html(self.reported_scores, self.report, self.bundle)


def run(recipe: Recipe, base: Path = Path(), folder: Path | None = None) -> Result:
    """Run a study from its recipe to its report and bundle.

    Args:
        recipe: what to study.
        base: folder against which the recipe's relative paths are resolved.
        folder: the run folder. Default: ``runs/NAME``.

    Raises:
        UsageError: the recipe or the data is wrong, or the audit found a leak.
        Failure: training or evaluation failed (network, disk, memory, diverged loss).
    """
    folder = folder or Path("runs") / recipe.name
    # Before the folder is touched: what cannot work leaves nothing behind.
    preflight.check(recipe, base)
    with run_folder.locked(folder):
        dumped = recipes.dump(recipe)
        archive.archive_previous_run(folder, dumped)
        write_text(folder / "recipe.yaml", dumped)
        # After the dump: the recipe in the run folder is the user's, and so reads as unchanged.
        recipe = with_training_dtype(recipe)
        study, data_fingerprint = prepare(recipe, base, folder)
        preflight.check_with_data(recipe, study)
        check_texts(recipe, study, base, folder, data_fingerprint)
        _notify_compute_settings(recipe)
        stage = VariantStage(
            recipe,
            study,
            data_fingerprint,
            base,
            folder,
            BaseModelCache(),
            PassageProvider(recipe, base, folder),
            pretraining_folder=folder / run_folder.PRETRAINING_FOLDER,
        )
        # Before anything is trained: a refused key or a server that is down stops the study.
        answered = {
            name: stage.run(name, variant)
            for name, variant in recipe.variants.items()
            if variant.kind == "endpoint"
        }
        # From here on with the values that the search has chosen.
        trained = run_search(stage)
        stage = replace(stage, recipe=trained)
        results = [
            answered[name] if name in answered else stage.run(name, variant)
            for name, variant in trained.variants.items()
        ]
        curves = run_learning_curve(stage)
        del stage  # frees the base model and the index
        scores, costs = evaluate(recipe, study, results, folder, base, curves=curves)
        bundle = bundle_variant(trained, study, results, scores, folder)
        return Result(folder, scores, folder / "report.html", bundle, costs)


def _notify_compute_settings(recipe: Recipe) -> None:
    for view in recipe.base_models().values():
        settings = compute_settings(view)
        notify(
            f"model: {view.model.name}, {settings['dtype']} on {settings['device']}, "
            f"{settings['attention']} attention (to change: model.dtype, model.attention)",
            "dim",
        )
        if settings["device"] == "mps":
            notify(
                "Apple's GPU: PyTorch's matmuls without compiled kernels; operators without an MPS "
                "version run on the CPU. Prooftune was not measured on one; PROOFTUNE_MPS=0 uses "
                "the CPU",
                "yellow",
            )
        if settings["frozen_products"] == "int8":
            notify(
                "training computes matmuls with frozen weights in int8 (model.int8_training)", "dim"
            )


def prepare(recipe: Recipe, base: Path, folder: Path) -> tuple[Study, str]:
    """Load, split and audit the data, or read it from the run folder if no input has changed.

    Returns:
        The study's data, and the fingerprint of its inputs.
    """
    from prooftune.data.prepare import prepare_data

    inputs_fingerprint = fingerprint(
        {
            "data": recipe.data.model_dump(),
            "audit": recipe.audit.model_dump(),
            "seed": recipe.seed,
            # Another version may split or audit in another way.
            "version": __version__,
            # Prompt and model decide what is truncated, which the audit reports.
            "prompt": recipe.prompt.model_dump(),
            # Sorted: the order of variants does not change the data.
            "model": sorted({view.model.name for view in recipe.base_models().values()}),
            "task": recipe.task,
            "sources": {name: source_digest(recipe.data, name, base) for name in SPLITS},
            "searched": searches_contexts(recipe),
        }
    )
    data_folder = folder / "data"
    if run_folder.is_stage_done(data_folder, inputs_fingerprint):
        notify("data and audit: unchanged", "dim")
        return run_folder.read_study(data_folder), inputs_fingerprint
    run_folder.begin_stage(data_folder, inputs_fingerprint)
    study, report = prepare_data(recipe, base, lambda data: prompt_length_counter(recipe, data))
    write_json(data_folder / "audit.json", report.to_json())
    # After writing, so that the findings can be read.
    report.raise_errors()
    if searches_contexts(recipe):
        study = contexts.use_contexts_as_documents(study, data_folder)
    run_folder.write_study(data_folder, study)
    run_folder.finish_stage(data_folder, inputs_fingerprint)
    unit = f"rows, {len(study.labels)} labels" if study.labels else "questions"
    notify(
        f"data: {len(study.train):,} training, {len(study.validation):,} validation and "
        f"{len(study.test):,} test {unit}"
    )
    for note in study.notes:
        notify(f"  {note}", "yellow")
    warnings = sum(finding.severity == "warning" for finding in report.findings)
    if warnings:
        count = "1 warning" if warnings == 1 else f"{warnings} warnings"
        notify(f"audit: {count} (prooftune check and the report list them)", "yellow")
    return study, inputs_fingerprint


def rebuild_report(folder: Path) -> Result:
    """Score and report a finished run again from its files, e.g. with a newer version.

    Raises:
        UsageError: the folder is no run, or the run is not finished.
    """
    run_folder.open_run(folder)
    recipe, base = recipes.load(folder / "recipe.yaml")
    variants = folder / "variants"
    missing = [
        name
        for name in recipe.variants
        if not all(
            (run_folder.training_folder(variants, name, i) / "details.json").is_file()
            for i in range(recipe.trainings(name))
        )
    ]
    if missing:
        raise UsageError(
            f"{folder} is not finished: no predictions of {', '.join(missing)}. Run the recipe "
            "again to finish it."
        )
    study = run_folder.read_study(folder / "data")
    results = [
        run_folder.read_result(variants / name, v.system, recipe.trainings(name), v.adapter)
        for name, v in recipe.variants.items()
    ]
    bundle = folder / "bundle"
    manifest = bundle / "bundle.json"
    # The verdict is on the variant in the bundle, also where today's rules would choose another.
    shipped = str(read_json(manifest)["variant"]) if manifest.is_file() else None
    curves = read_learning_curve(recipe, study, folder)
    scores, costs = evaluate(recipe, study, results, folder, base, shipped, curves)
    existing = bundle if bundle.is_dir() else None
    return Result(folder, scores, folder / "report.html", existing, costs)
