"""The stages of a study, in order, over a run folder.

    recipe -> data and audit -> variants -> scores -> report -> bundle

Every stage writes into the run folder and is skipped when its inputs have not changed, so the same
command after a kill continues where it was.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.data import contexts
from prooftune.data.sources import source_digest
from prooftune.errors import UsageError
from prooftune.models.environment import compute_settings, describe_environment
from prooftune.preflight import checker as preflight
from prooftune.recipe import Recipe, Variant
from prooftune.study import archive
from prooftune.tasks import task
from prooftune.tasks.prompts import PromptEncoder
from prooftune.types import SPLITS, Example, Study, VariantResult
from prooftune.utils.files import fingerprint, read_json, write_json, write_text
from prooftune.utils.progress import notify
from prooftune.utils.secrets import redact
from prooftune.variants.context import VariantContext, VariantOutput
from prooftune.variants.passages import (
    PASSAGES_FILE,
    PassageProvider,
    documents_digest,
    searches_contexts,
    uses_passages,
)
from prooftune.version import __version__


@dataclass(frozen=True, slots=True)
class Result:
    """What `run` returns.

    Attributes:
        folder: the run folder.
        scores: metrics, comparisons and verdict (see `evaluation.scores.score`).
        report: path of the report page.
        bundle: the bundle of the tuned variant that the verdict is about; None if nothing was
            tuned.
    """

    folder: Path
    scores: dict[str, Any] = field(repr=False)
    report: Path
    bundle: Path | None

    @property
    def verdict(self) -> str:
        return str(self.scores["verdict"]["sentence"])

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return str(self.scores["verdict"]["headline"])

    def _repr_html_(self) -> str:
        """The verdict and the table of variants, which notebooks display."""
        from prooftune.study.notebook import result_html

        return result_html(self)


def run(recipe: Recipe, base: Path = Path(), folder: Path | None = None) -> Result:
    """Run a study from its recipe to its report and bundle.

    Args:
        recipe: what to study.
        base: folder against which the recipe's relative paths are resolved.
        folder: the run folder; ``runs/NAME`` if None.

    Raises:
        UsageError: the recipe or the data is wrong, or the audit found a leak.
        Failure: something that was asked for correctly could not be done.
    """
    folder = folder or Path("runs") / recipe.name
    preflight.check(recipe, base)
    if recipe.judge is not None:
        from prooftune.judge.study import warn_if_unreachable

        warn_if_unreachable(recipe.judge)
    with run_folder.locked(folder):
        dumped = recipes.dump(recipe)
        archive.archive_previous_run(folder, dumped)
        write_text(folder / "recipe.yaml", dumped)
        study, data_print = prepare(recipe, base, folder)
        preflight.check_with_data(recipe, study)
        if recipe.uses_language_model:
            how = compute_settings(recipe)
            notify(
                f"model: {recipe.model.name}, {how['dtype']} on {how['device']}, "
                f"{how['attention']} attention (model.dtype, "
                "model.attention)",
                "dim",
            )
            if how["frozen_products"] == "int8":
                notify(
                    "products with frozen weights are in int8 while adapters learn "
                    "(model.int8_training)",
                    "dim",
                )
        results = []
        models = _SharedModel()
        passages = PassageProvider(recipe, base, folder)
        for name, variant in recipe.variants.items():
            place = folder / "variants" / name
            results.append(
                _variant(recipe, study, data_print, name, variant, place, base, models, passages)
            )
        del models, passages
        scores = evaluate(recipe, study, results, folder, base)
        return Result(
            folder, scores, folder / "report.html", _bundle(recipe, study, results, scores, folder)
        )


def prepare(recipe: Recipe, base: Path, folder: Path) -> tuple[Study, str]:
    """Load, split and audit the data, or read back what an earlier run made of the same files.

    Returns:
        The study's data and the fingerprint of its inputs.
    """
    from prooftune.data.prepare import prepare_data as prepare_data

    print_ = fingerprint(
        {
            "data": recipe.data.model_dump(),
            "audit": recipe.audit.model_dump(),
            "seed": recipe.seed,
            "version": __version__,
            "prompt": recipe.prompt.model_dump(),
            "model": recipe.model.name,
            "task": recipe.task,
            "sources": {name: source_digest(recipe.data, name, base) for name in SPLITS},
            "searched": searches_contexts(recipe),
        }
    )
    place = folder / "data"
    if run_folder.is_stage_done(place, print_):
        notify("data and audit: unchanged", "dim")
        return run_folder.read_study(place), print_
    run_folder.begin_stage(place, print_)
    study, report = prepare_data(recipe, base, lambda loaded: prompt_length_counter(recipe, loaded))
    write_json(place / "audit.json", report.to_json())
    report.raise_errors()
    if searches_contexts(recipe):
        study = contexts.use_contexts_as_documents(study, place)
    run_folder.write_study(place, study)
    run_folder.finish_stage(place, print_)
    what = f"rows, {len(study.labels)} labels" if study.labels else "questions"
    notify(
        f"data: {len(study.train):,} training, {len(study.validation):,} validation and "
        f"{len(study.test):,} test {what}"
    )
    for note in study.notes:
        notify(f"  {note}", "yellow")
    return study, print_


def evaluate(
    recipe: Recipe,
    study: Study,
    results: list[VariantResult],
    folder: Path,
    base: Path,
    bundled: str | None = None,
) -> dict[str, Any]:
    """Score every variant, compare them in pairs, ask the judge if there is one, and write the
    report.

    Args:
        recipe: the recipe.
        study: the data.
        results: the predictions of every variant.
        folder: the run folder.
        base: folder against which the recipe's relative paths are resolved.
        bundled: the variant that has shipped already, and so is judged; None: the recipe's, or the
            best on validation.
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
            borrowed=[name for name, variant in recipe.variants.items() if variant.adapter],
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
    facts = {
        "name": recipe.name,
        "recipe": redact(recipes.dump(recipe)),
        "scores": scores,
        "notes": study.notes,
        "seed": recipe.seed,
        "audit": read_json(folder / "data" / "audit.json"),
        "prooftune_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "variants": {r.name: {"kind": r.kind, **r.details} for r in results},
        "environment": describe_environment(recipe),
    }
    estimated = run_folder.estimates_path(recipes.dump(recipe))
    if estimated.is_file():
        facts["estimates"] = {
            name: {**one, "seconds": one["train_seconds"] + one["score_seconds"]}
            for name, one in read_json(estimated).items()
        }
    write_report(facts, folder)
    return scores


def rebuild_report(folder: Path) -> Result:
    """Score and report a finished run again from its files, e.g. after Prooftune's report has
    changed."""
    run_folder.open_run(folder)
    recipe, base = recipes.load(folder / "recipe.yaml")
    missing = [
        name
        for name in recipe.variants
        if not (folder / "variants" / name / "details.json").is_file()
    ]
    if missing:
        raise UsageError(
            f"{folder} is not finished: no predictions of {', '.join(missing)}. Run the recipe "
            "again to go on."
        )
    study = run_folder.read_study(folder / "data")
    results = [
        run_folder.read_result(folder / "variants" / name, v.kind)
        for name, v in recipe.variants.items()
    ]
    bundle = folder / "bundle"
    manifest = bundle / "bundle.json"
    shipped = str(read_json(manifest)["variant"]) if manifest.is_file() else None
    scores = evaluate(recipe, study, results, folder, base, shipped)
    return Result(folder, scores, folder / "report.html", bundle if bundle.is_dir() else None)


class _SharedModel:
    """The untuned model, loaded when the first variant needs it and let go before training needs
    the memory."""

    def __init__(self) -> None:
        self._held: Any = None

    def get(self, context: VariantContext) -> Any:
        if self._held is None:
            from prooftune.variants.model_handle import base_model_handle

            self._held = base_model_handle(context)
        return self._held

    def release(self) -> None:
        self._held = None


def _variant(
    recipe: Recipe,
    study: Study,
    data_print: str,
    name: str,
    variant: Variant,
    folder: Path,
    base: Path,
    models: _SharedModel,
    passages: PassageProvider,
) -> VariantResult:
    """Run one variant, or read back its result if nothing that it depends on has changed."""
    shown = [documents_digest(recipe, base)] if uses_passages(variant) else []
    print_ = fingerprint([data_print, variant.model_dump(), *_inputs(recipe, variant), *shown])
    if run_folder.is_stage_done(folder, print_):
        notify(f"{name}: unchanged", "dim")
        return run_folder.read_result(folder, variant.kind)
    run_folder.begin_stage(folder, print_)
    seen, retrieval = passages.study_for(study, variant)
    if uses_passages(variant):
        write_json(folder / PASSAGES_FILE, passages.passage_table(seen))
    outcome = _outcome(
        VariantContext(recipe, seen, folder, windowed=not uses_passages(variant)),
        variant,
        name,
        base,
        models,
    )
    if retrieval:
        outcome.details["retrieval"] = retrieval
    if variant.context == "gold" and (guessed := passages.count_unnamed_gold(study)):
        outcome.details["guessed_gold"] = guessed
    run_folder.write_predictions(folder / "validation.parquet", outcome.validation)
    run_folder.write_predictions(folder / "predictions.parquet", outcome.test)
    write_json(folder / "details.json", outcome.details)
    run_folder.finish_stage(folder, print_)
    result = run_folder.read_result(folder, variant.kind)
    said = task.task_for(recipe)
    quality = fmean(said.quality(p, e) for p, e in zip(result.test, study.test, strict=True))
    before = (
        " before its no-answer threshold"
        if any(p.no_answer_log_prob is not None for p in result.test)
        else ""
    )
    notify(f"{name}: {said.quality_name} {quality:.1%} on {len(study.test):,} test rows{before}")
    return result


def _outcome(
    context: VariantContext, variant: Variant, name: str, base: Path, models: _SharedModel
) -> VariantOutput:
    # Imported where used: the classical baselines need no torch.
    if variant.kind == "embedding":
        from prooftune.variants.embedding import run_embedding

        return run_embedding(context, variant, name)
    if not variant.uses_language_model:
        from prooftune.variants import classical

        return {"majority": classical.run_majority, "tfidf": classical.run_tfidf}[variant.kind](
            context
        )
    if variant.kind == "tuned":
        from prooftune.variants.tuned import run_tuned

        models.release()
        return run_tuned(context, variant, name, base)
    from prooftune.variants import prompting

    ask: dict[str, Callable[..., VariantOutput]] = {
        "zero-shot": prompting.run_zero_shot,
        "few-shot": prompting.run_few_shot,
        "prompted": prompting.run_prompted,
    }
    return ask[variant.kind](context, variant, models.get(context), name)


def _inputs(recipe: Recipe, variant: Variant) -> list[Any]:
    """The parts of the recipe that a variant's predictions depend on."""
    if not variant.uses_language_model:
        return [recipe.seed]
    parts: list[Any] = [
        recipe.seed,
        recipe.model.model_dump(),
        recipe.quantization,
        recipe.prompt.model_dump(),
        recipe.scoring.model_dump(),
    ]
    if recipe.task != "classification":
        parts += [recipe.answering.model_dump(), recipe.retrieval and recipe.retrieval.model_dump()]
        parts += [recipe.variants[variant.adapter].model_dump()] if variant.adapter else []
    if variant.kind == "tuned":
        parts += [recipe.lora, recipe.training, recipe.early_stopping, recipe.forgetting]
    return parts


def encoder_for(recipe: Recipe, study: Study) -> PromptEncoder:
    """The encoder of the recipe's own prompt, by which texts are measured in tokens."""
    context = VariantContext(recipe, study, Path())
    return context.encoder(context.rendering())


def prompt_length_counter(
    recipe: Recipe, study: Study
) -> Callable[[Sequence[Example]], Iterator[tuple[int, int]]] | None:
    """A function that measures prompts in tokens, if any variant asks a language model."""
    if not recipe.uses_language_model:
        return None
    encoder = encoder_for(recipe, study)
    return lambda examples: (encoder.prompt_length(e.inputs) for e in examples)


def _bundle(
    recipe: Recipe, study: Study, results: list[VariantResult], scores: dict[str, Any], folder: Path
) -> Path | None:
    """Bundle the tuned variant that the verdict is about."""
    judged = scores["verdict"]["best_tuned"]
    if judged is None or recipe.variants[judged].adapter:
        return None
    from prooftune.bundle.save import save_bundle

    best = next(result for result in results if result.name == judged)
    save_bundle(recipe, study, best, scores, folder / "bundle")
    return folder / "bundle"
