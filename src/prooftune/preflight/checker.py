"""The one checker of a recipe: all findings at once, before anything is computed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from prooftune.data.sources import check_files_exist, check_source_exists
from prooftune.errors import Failure, UsageError, nearest
from prooftune.preflight.findings import Finding, error, note
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.variants import WEIGHTED_KINDS
from prooftune.types import SPLITS, Study
from prooftune.utils.error_costs import error_cost_matrix
from prooftune.utils.files import MissingFile
from prooftune.utils.progress import notify


def check(recipe: Recipe, base: Path) -> None:
    """Check what can be known before the data is read; show notes.

    Raises:
        UsageError: listing everything that cannot work.
    """
    # Errors before the judge's endpoint is tried, which takes seconds if it is down.
    report(findings(recipe, base), recipe)
    if recipe.judge is not None:
        from prooftune.judge.study import warn_if_unreachable

        warn_if_unreachable(recipe.judge)


def check_with_data(recipe: Recipe, study: Study) -> None:
    """Check what depends on the rows and on the model's layers; show notes that are new.

    Raises:
        UsageError: listing everything that cannot work.
    """
    report(findings_with_data(recipe, study), recipe)


def report(reported: Iterable[Finding], recipe: Recipe) -> None:
    """Show notes and raise errors.

    Raises:
        UsageError: listing all errors.
    """
    unique = list(dict.fromkeys(reported))
    for finding in unique:
        if finding.severity == "note":
            notify(f"note: {finding}", "yellow")
    errors = [str(f) for f in unique if f.severity == "error"]
    if len(errors) == 1:
        # The original error: its type may tell the command line more, such as a missing file.
        cause = next(f.cause for f in unique if f.severity == "error")
        raise cause or UsageError(errors[0])
    if errors:
        # The command line adds to a missing file of a shipped recipe where to get it.
        missing = any(isinstance(f.cause, MissingFile) for f in unique)
        lines = "\n".join(f"  - {message}" for message in errors)
        raise (MissingFile if missing else UsageError)(
            f"{recipe.name}: {len(errors)} options cannot work here or together\n{lines}"
        )


def findings(recipe: Recipe, base: Path) -> list[Finding]:
    """Return the findings that need only the recipe."""
    result = [*_unused(recipe), *_order(recipe), *_sources(recipe, base)]
    for name, view in recipe.base_models().items():
        # Imported here: torch is not needed for recipes without a language model.
        from prooftune.preflight.precision import check_precision
        from prooftune.preflight.quantization import check_quantization

        result += [*check_precision(view), *check_quantization(view, name)]
    for name, variant in [*trained(recipe), *encoders(recipe)]:
        from prooftune.preflight.training import check_training

        result += check_training(recipe.for_variant(name), name, variant)
        if variant.method != "full":
            from prooftune.preflight.lora import check_lora

            result += check_lora(name, variant, recipe.for_variant(name))
    if recipe.search is not None:
        from prooftune.preflight.search import check_search

        result += check_search(recipe)
    if any(finding.severity == "error" for finding in result):
        result += _hub_models(recipe)
    # Variants that share options share their findings.
    return list(dict.fromkeys(result))


def findings_with_data(recipe: Recipe, study: Study) -> list[Finding]:
    """Return the findings that need the data and the model folder."""
    result: list[Finding] = [*_class_weights(recipe, study), *_error_costs(recipe, study)]
    if recipe.search is not None and not len(study.validation):
        remedy = "set data.validation or a data.splitting.validation share"
        result.append(error("search", f"needs validation rows: {remedy}"))
    if recipe.learning_curve is not None:
        from prooftune.preflight.learning_curve import check_learning_curve

        result += check_learning_curve(recipe, study)
    for name, view in recipe.base_models().items():
        # Fetched before anything is computed, so that a missing model does not stop half a study.
        key = _model_key(recipe, name)
        result += _refused(key, partial(_model_folder, view, recipe.variants[name]))
    # What follows opens the model's folder.
    if any(finding.severity == "error" for finding in result):
        return result
    for name, _ in encoders(recipe):
        result += _refused(f"variants.{name}.model", partial(_check_encoder, recipe, name))
    # A model that is no encoder has no layers to try LoRA on.
    if any(finding.severity == "error" for finding in result):
        return result
    for name, variant in [*trained(recipe), *encoders(recipe)]:
        from prooftune.preflight.lora import check_layers
        from prooftune.preflight.training import check_training

        view = recipe.for_variant(name)
        sizes = len(study.train), len(study.validation)
        # Notes were shown by `findings`; with the numbers of rows only errors can be new.
        result += [f for f in check_training(view, name, variant, sizes) if f.severity == "error"]
        if variant.method != "full":
            folder = _model_folder(view, variant)
            result += check_layers(name, variant, view, folder)
    return list(dict.fromkeys(result))


def trained(recipe: Recipe) -> list[tuple[str, Variant]]:
    """The variants that are trained, with the options that they inherit."""
    return [
        (n, recipe.resolved(v))
        for n, v in recipe.variants.items()
        if v.kind == "tuned" and not v.adapter
    ]


def encoders(recipe: Recipe) -> list[tuple[str, Variant]]:
    """The variants of kind: encoder."""
    return [(n, v) for n, v in recipe.variants.items() if v.kind == "encoder"]


def _model_folder(view: Recipe, variant: Variant) -> Path:
    """The local folder of a variant's model, fetched if needed."""
    from prooftune.models import embeddings, loading

    resolve = embeddings.resolve if variant.kind == "encoder" else loading.resolve
    return resolve(view.model.name, view.model.revision)


def _check_encoder(recipe: Recipe, name: str) -> None:
    from transformers import AutoConfig

    from prooftune.models.encoder import check_is_encoder

    folder = _model_folder(recipe.for_variant(name), recipe.variants[name])
    check_is_encoder(AutoConfig.from_pretrained(folder), folder)


def _unused(recipe: Recipe) -> Iterator[Finding]:
    """Sections that no variant looks at."""
    tuned = trained(recipe)
    for section in ("training", "lora", "early_stopping", "forgetting"):
        if getattr(recipe, section) and not tuned:
            yield note(section, "not used: no variant of kind tuned is trained")
    if recipe.class_weights and not any(
        v.kind in WEIGHTED_KINDS and not v.adapter for v in recipe.variants.values()
    ):
        yield note("class_weights", f"not used: no variant is one of {', '.join(WEIGHTED_KINDS)}")
    if recipe.lora and tuned and all(variant.method == "full" for _, variant in tuned):
        yield note("lora", "not used: every tuned variant has method: full")
    if recipe.quantization and not recipe.uses_language_model:
        yield note("quantization", "not used: no variant asks a language model")


def _class_weights(recipe: Recipe, study: Study) -> Iterator[Finding]:
    """Weights of labels that the study does not have."""
    settings = {"class_weights": recipe.class_weights}
    settings |= {f"variants.{n}.class_weights": v.class_weights for n, v in recipe.variants.items()}
    for key, weights in settings.items():
        for label in weights if isinstance(weights, dict) else ():
            if label not in study.labels:
                yield error(
                    key,
                    f"no row has the label '{label}'{nearest(label, study.labels)}; the labels are "
                    f"{', '.join(study.labels)}",
                )


def _error_costs(recipe: Recipe, study: Study) -> Iterator[Finding]:
    """Costs of labels that the study does not have, and costs that no error has."""
    named = dict.fromkeys(
        label for true, row in (recipe.costs or {}).items() for label in (true, *row)
    )
    unknown = [label for label in named if label not in study.labels]
    for label in unknown:
        yield error(
            "costs",
            f"no row has the label '{label}'{nearest(label, study.labels)}; the labels are "
            f"{', '.join(study.labels)}",
        )
    if recipe.costs and not unknown and not error_cost_matrix(recipe.costs, study.labels).any():
        yield error("costs", "every error costs 0, so that all predictions are equally good")


def _order(recipe: Recipe) -> Iterator[Finding]:
    names = list(recipe.variants)
    for name, variant in recipe.variants.items():
        # Variants run in their order, and this one needs the other's weights.
        for key, source in (("adapter", variant.adapter), ("from", variant.start_from)):
            if source in names and names.index(str(source)) > names.index(name):
                yield error(
                    f"variants.{name}.{key}", f"'{source}' must come before it among the variants"
                )


def _sources(recipe: Recipe, base: Path) -> Iterator[Finding]:
    """Files, models, libraries, documents, texts and keys that are not there."""
    for split in SPLITS:
        if getattr(recipe.data, split) is not None:
            yield from _refused(
                f"data.{split}", partial(check_source_exists, recipe.data, split, base)
            )
    for name, view in recipe.base_models().items():
        from prooftune.models.loading import check_model_name

        yield from _refused(_model_key(recipe, name), partial(check_model_name, view.model.name))
    yield from _pretraining_files(recipe, base)
    yield from _embedding_models(recipe)
    yield from _endpoints(recipe)
    if not recipe.has_labels:
        from prooftune.evaluation.answers.scores import require_libraries
        from prooftune.variants.document_files import check_documents

        yield from _refused("task", require_libraries)
        yield from _refused("retrieval.documents", lambda: check_documents(recipe, base))
    for name, variant in trained(recipe):
        if variant.pairs is not None:
            from prooftune.data.preferences import read_preferences

            yield from _refused(
                f"variants.{name}.pairs", partial(read_preferences, base / variant.pairs)
            )
    if trained(recipe) and recipe.forgetting is not None:
        from prooftune.variants.forgetting import general_text

        yield from _refused("forgetting", lambda: general_text(recipe.forgetting, base))
    if recipe.judge is not None:
        yield from _judge(recipe, base)


def _pretraining_files(recipe: Recipe, base: Path) -> Iterator[Finding]:
    for name, variant in recipe.variants.items():
        if variant.pretrain is not None and not variant.pretrain.reads_training_rows:
            yield from _refused(
                f"variants.{name}.pretrain",
                partial(check_files_exist, variant.pretrain.source(), base),
            )


def _hub_models(recipe: Recipe) -> Iterator[Finding]:
    """Models that the hub does not give, listed with other errors: without any, the download
    says it at once."""
    from prooftune.models.loading import check_hub_access

    for name, view in recipe.base_models().items():
        key = _model_key(recipe, name)
        yield from _refused(key, partial(check_hub_access, view.model.name, view.model.revision))


def _model_key(recipe: Recipe, name: str) -> str:
    """The key that names the base model of a variant."""
    variant = recipe.variants[name]
    own = [variant, *recipe.sources_of_weights(variant)][-1].model
    return "model.name" if own is None else f"variants.{name}.model"


def _embedding_models(recipe: Recipe) -> Iterator[Finding]:
    for name, variant in recipe.variants.items():
        if variant.kind == "embedding":
            from prooftune.models import embeddings

            model = variant.embedding_model or embeddings.DEFAULT_EMBEDDING
            yield from _refused(f"variants.{name}.model", partial(embeddings.resolve, model))
            if variant.prompt_name is not None:
                yield from _refused(
                    f"variants.{name}.prompt_name", partial(_check_prompt_name, model, variant)
                )


def _endpoints(recipe: Recipe) -> Iterator[Finding]:
    for name, variant in recipe.variants.items():
        if variant.endpoint is None:
            continue
        section = f"variants.{name}.endpoint"
        if importlib.util.find_spec("openai") is None:
            yield error(section, "needs the openai client: pip install 'prooftune[judge]'")
            continue
        from prooftune.chat_client.api_key import read_api_key

        yield from _refused(
            f"{section}.api_key_env", partial(read_api_key, variant.endpoint, section)
        )


def _check_prompt_name(model: str, variant: Variant) -> None:
    from prooftune.models import embeddings

    embeddings.feature_prompt(embeddings.resolve(model), variant.prompt_name)


def _judge(recipe: Recipe, base: Path) -> Iterator[Finding]:
    settings = recipe.judge
    if settings is None:
        return
    if settings.base_url is None:
        from prooftune.models.loading import check_model_name

        yield from _refused("judge.model", lambda: check_model_name(settings.model))
    elif importlib.util.find_spec("openai") is None:
        yield error("judge.base_url", "needs the openai client: pip install 'prooftune[judge]'")
    else:
        from prooftune.chat_client.api_key import read_api_key

        yield from _refused("judge.api_key_env", lambda: read_api_key(settings, "judge"))
    if settings.human is not None:
        from prooftune.judge.human import read_human_scores

        human = base / settings.human
        criteria = list(settings.criteria)
        judged = [name for name, variant in recipe.variants.items() if variant.generates]
        yield from _refused(
            "judge.human", lambda: read_human_scores(human, criteria, settings.scale, judged)
        )


def _refused(key_path: str, look: Callable[[], object]) -> Iterator[Finding]:
    try:
        look()
    except (UsageError, Failure) as refusal:
        # Many of these errors begin with the key, which the finding has already.
        message = str(refusal).removeprefix(f"{key_path}: ")
        yield Finding("error", key_path, message, refusal)
