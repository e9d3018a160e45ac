"""The stage of one variant: train it if needed, predict, and record the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prooftune import run_folder
from prooftune.errors import UsageError
from prooftune.evaluation.multilabel.thresholds import has_threshold
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.variant_options import SAMPLING_OPTIONS, WEIGHTED_KINDS
from prooftune.report.variant_warnings import short_training
from prooftune.study.pretraining import pretraining_inputs, texts_digest
from prooftune.tasks.task import task_for
from prooftune.types import Example, Study, VariantResult
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import fingerprint, sha256, write_json
from prooftune.utils.label_sets import DEFAULT_THRESHOLD
from prooftune.utils.progress import notify
from prooftune.variants.context import VariantContext, VariantOutput, training_title
from prooftune.variants.document_files import documents_digest, uses_passages
from prooftune.variants.passages import PASSAGES_FILE, PassageProvider

if TYPE_CHECKING:
    from prooftune.variants.model_handle import ModelHandle


class BaseModelCache:
    """The untuned model, loaded on first use and shared by the variants that prompt it.

    Only one model is in memory: one with another name or other settings replaces it.
    """

    def __init__(self) -> None:
        self._handle: ModelHandle | None = None
        self._settings = ""

    def get(self, context: VariantContext) -> ModelHandle:
        recipe = context.recipe
        settings = fingerprint([recipe.model.model_dump(), recipe.quantization])
        if self._handle is None or self._settings != settings:
            from prooftune.variants.model_handle import base_model_handle

            if self._handle is not None:
                self._handle.release()
                self._handle = None  # before the next one is loaded
            self._handle, self._settings = base_model_handle(context), settings
        return self._handle

    def release(self) -> None:
        """Free the model, because training needs the memory."""
        self._handle = None


@dataclass
class VariantStage:
    """What all variants of a study share.

    Attributes:
        recipe, study: the study.
        data_fingerprint: of the inputs of `study`.
        base: folder against which the recipe's relative paths are resolved.
        folder: the run folder.
        models, passages: loaded and built when the first variant needs them.
        with_latency: whether to time predictions of single rows.
        pretraining_folder: of all pretrainings, also for shares of a learning curve. Default: in
            the run folder.
    """

    recipe: Recipe
    study: Study
    data_fingerprint: str
    base: Path
    folder: Path
    models: BaseModelCache
    passages: PassageProvider
    with_latency: bool = True
    pretraining_folder: Path | None = None

    def run(self, name: str, variant: Variant) -> VariantResult:
        """Run a variant, or read its result if none of its inputs has changed.

        Every training is a stage of its own, so that a killed run continues with the training at
        which it was, and more `seeds` add trainings to those that are there.
        """
        trainings = self.recipe.trainings(name)
        for training in range(trainings):
            self._run_training(name, variant, training)
        folder = self.folder / "variants" / name
        result = run_folder.read_result(folder, variant.system, trainings, variant.adapter)
        # Shares of a learning curve are short on purpose.
        if self.with_latency and "training" in result.details:
            for warning in short_training(name, result.details["training"]):
                notify(f"  {warning}", "yellow")
        return result

    def _run_training(self, name: str, variant: Variant, training: int) -> None:
        folder = run_folder.training_folder(self.folder / "variants", name, training)
        title = training_title(name, training)
        inputs_fingerprint = self.fingerprint(name, variant, training)
        if run_folder.is_stage_done(folder, inputs_fingerprint):
            notify(f"{title}: unchanged", "dim")
            return
        run_folder.begin_stage(folder, inputs_fingerprint)
        context, retrieval = self.context(name, variant, folder, training)
        if uses_passages(variant):
            write_json(folder / PASSAGES_FILE, self.passages.passage_table(context.study))
        missing = self._missing_languages(variant)
        output = _run_kind(context, variant, name, self.base, self.models)
        if variant.uses_language_model:
            output.details["model"] = context.recipe.model.name
        if missing and variant.kind not in _UNTRAINED:
            output.details["missing_languages"] = missing
            output.details["all_languages"] = self.recipe.variant_with_all_languages(name)
        if retrieval:
            output.details["retrieval"] = retrieval
        if variant.context == "gold" and (unnamed := self.passages.count_unnamed_gold(self.study)):
            output.details["guessed_gold"] = unnamed
        run_folder.write_predictions(folder / "validation.parquet", output.validation)
        run_folder.write_predictions(folder / "predictions.parquet", output.test)
        # Last of the files: `compare` and `report` take it for the sign of a finished training.
        write_json(folder / "details.json", output.details)
        run_folder.finish_stage(folder, inputs_fingerprint)
        self._notify_quality(title, output)

    def context(
        self, name: str, variant: Variant, folder: Path, training: int = 0
    ) -> tuple[VariantContext, dict[str, Any]]:
        """What the variant sees of the study, and its retrieval metrics (see
        `PassageProvider.study_for`).

        Args:
            name, variant: the variant.
            folder: of the training.
            training: number of the training.
        """
        # Passages take the place of the context here, so variants see different inputs.
        study, retrieval = self.passages.study_for(self.study, variant)
        missing = self._missing_languages(variant)
        selection = _of_languages(study.validation, variant) if missing else None
        if missing:
            study = _rows_of_languages(study, variant, name)
        context = VariantContext(
            self.recipe.for_variant(name),
            study,
            folder,
            windowed=not uses_passages(variant),
            training=training,
            # The checkpoint is chosen on the languages that are trained on, as without the others'
            # data.
            selection_rows=selection,
            with_latency=self.with_latency,
            pretraining=pretraining_inputs(
                self.recipe,
                name,
                study.train,
                self.base,
                self.pretraining_folder or self.folder / run_folder.PRETRAINING_FOLDER,
            ),
            base=self.base,
        )
        return context, retrieval

    def _missing_languages(self, variant: Variant) -> list[str]:
        """Languages of the study that the variant is not trained on."""
        if variant.languages is None and not variant.without:
            return []
        return [name for name in self.study.languages() if not variant.trains_on(name)]

    def fingerprint(self, name: str, variant: Variant, training: int) -> str:
        """Fingerprint of all inputs of one training of a variant."""
        # Only where they matter: other variants stay valid when a document changes.
        documents = [documents_digest(self.recipe, self.base)] if uses_passages(variant) else []
        weights = (variant, *self.recipe.sources_of_weights(variant))
        documents += [sha256(self.base / v.pairs) for v in weights if v.pairs]
        inputs = _recipe_inputs(self.recipe.for_variant(name), variant)
        options = _training_options(variant)
        # A variant with another one's weights depends on what that one was pretrained on.
        for trained in weights:
            if trained.pretrain is not None:
                leak = trained.pretrain.leak or self.recipe.audit.leak
                inputs += [leak, texts_digest(trained.pretrain, self.base)]
        # Nothing for the first one, so that adding `seeds` does not repeat it.
        repeat = [training] if training else []
        return fingerprint([self.data_fingerprint, options, *inputs, *documents, *repeat])

    def _notify_quality(self, title: str, output: VariantOutput) -> None:
        task = task_for(self.recipe)
        quality = fmean(
            task.quality(p, e) for p, e in zip(output.test, self.study.test, strict=True)
        )
        # The evaluation chooses thresholds on validation rows, once all variants are there.
        before_threshold = ""
        if any(p.no_answer_log_prob is not None for p in output.test):
            before_threshold = " before its no-answer threshold"
        elif self.recipe.task == "multilabel" and has_threshold(output.test, output.validation):
            before_threshold = f" at {DEFAULT_THRESHOLD:g}, before its label threshold"
        notify(
            f"{title}: {task.quality_name} {quality:.1%} on {len(self.study.test):,} test rows"
            f"{before_threshold}"
        )


_UNTRAINED = ("zero-shot", "prompted")
"""Kinds of variants that see no training rows."""


def _rows_of_languages(study: Study, variant: Variant, name: str) -> Study:
    """The study with the training rows of the variant's languages only."""
    train = _of_languages(study.train, variant)
    if not train:
        raise UsageError(
            f"variants.{name}: no training rows are left; the languages are "
            f"{', '.join(study.languages())}"
        )
    return replace(study, train=train)


def _of_languages(examples: Sequence[Example], variant: Variant) -> Sequence[Example]:
    return DiskBackedList(e for e in examples if variant.trains_on(e.language))


def _run_kind(
    context: VariantContext, variant: Variant, name: str, base: Path, models: BaseModelCache
) -> VariantOutput:
    # Imported here, because the classical baselines must not wait for torch.
    if variant.kind == "embedding":
        from prooftune.variants.embedding import run_embedding

        return run_embedding(context, variant, name)
    if variant.kind == "encoder":
        from prooftune.variants.encoder import run_encoder

        models.release()
        return run_encoder(context, variant, name)
    if variant.kind == "endpoint":
        from prooftune.variants.endpoint import run_endpoint

        return run_endpoint(context, variant, name)
    if not variant.uses_language_model:
        from prooftune.variants import classical

        baselines = {"majority": classical.run_majority, "tfidf": classical.run_tfidf}
        return baselines[variant.kind](context)
    if variant.kind == "tuned":
        from prooftune.variants.tuned import run_tuned

        models.release()
        return run_tuned(context, variant, name, base)
    if variant.adapter:
        from prooftune.variants.tuned import run_prompted_on_tuned

        models.release()
        return run_prompted_on_tuned(context, variant, name)
    from prooftune.variants import prompting

    runners: dict[str, Callable[..., VariantOutput]] = {
        "zero-shot": prompting.run_zero_shot,
        "few-shot": prompting.run_few_shot,
        "prompted": prompting.run_prompted,
    }
    return runners[variant.kind](context, variant, models.get(context), name)


def _training_options(variant: Variant) -> dict[str, Any]:
    """The options of a variant on which one training depends."""
    # The number of trainings does not change a training, and decisions are made when results are
    # evaluated.
    options = variant.model_dump(exclude={"seeds", "decision"})
    for name in ("pretrain", "start_from", "beta", "pairs", *SAMPLING_OPTIONS):
        if options[name] is None:
            # Runs from before these options stay valid.
            del options[name]
    return options


def _recipe_inputs(recipe: Recipe, variant: Variant) -> list[Any]:
    """The parts of the recipe that a variant's predictions depend on."""
    weighted = variant.kind in WEIGHTED_KINDS and recipe.class_weights
    weights = [{"class_weights": recipe.class_weights}] if weighted else []
    return [*_options_read(recipe, variant), *weights]


def _options_read(recipe: Recipe, variant: Variant) -> list[Any]:
    if variant.kind == "encoder":
        return [
            recipe.seed,
            recipe.model.model_dump(),
            recipe.prompt.max_length,
            recipe.scoring.batch_tokens,
            recipe.early_stopping,
        ]
    if variant.kind == "endpoint":
        retrieval = recipe.retrieval and recipe.retrieval.model_dump()
        return [recipe.seed, recipe.prompt.model_dump(), recipe.answering.model_dump(), retrieval]
    if not variant.uses_language_model:
        # Classical baselines depend on the data and the seed alone.
        return [recipe.seed]
    parts: list[Any] = [
        recipe.seed,
        recipe.model.model_dump(),
        recipe.quantization,
        recipe.prompt.model_dump(),
        recipe.scoring.model_dump(),
    ]
    if not recipe.has_labels:
        parts += [recipe.answering.model_dump(), recipe.retrieval and recipe.retrieval.model_dump()]
    # Other options of the variants whose weights are used train other weights.
    parts += [_training_options(v) for v in recipe.sources_of_weights(variant)]
    if any(v.objective == "reward" for v in (variant, *recipe.sources_of_weights(variant))):
        # What labels are rewarded by, and answers where the variant names no metric.
        parts += [{"costs": recipe.costs} if recipe.has_labels else recipe.evaluation.primary]
    if variant.is_tuned:
        parts += [recipe.lora, recipe.training, recipe.early_stopping, recipe.forgetting]
    return parts
