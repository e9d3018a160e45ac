"""The one checker of a recipe: all findings at once, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from prooftune.errors import UsageError, nearest
from prooftune.preflight.findings import Finding, error, note
from prooftune.preflight.sources import (
    check_hub_models,
    check_sources,
    model_key,
    refusal_of,
)
from prooftune.preflight.templates import check_prompts, check_templates
from prooftune.preflight.trained_variants import encoders, trained
from prooftune.recipe import Recipe, Variant
from prooftune.recipe.variant_options import WEIGHTED_KINDS
from prooftune.types import Study
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
        cause = next(f.cause for f in unique if f.severity == "error")
        # The original type may tell the command line more, such as a missing file.
        raise (UsageError if cause is None else type(cause))(errors[0]) from cause
    if errors:
        # The command line adds to a missing file of a shipped recipe where to get it.
        missing = any(isinstance(f.cause, MissingFile) for f in unique)
        lines = "\n".join(f"  - {message}" for message in errors)
        raise (MissingFile if missing else UsageError)(
            f"{recipe.name}: {len(errors)} options cannot work here or together\n{lines}"
        )


def findings(recipe: Recipe, base: Path) -> list[Finding]:
    """Return the findings that need only the recipe."""
    result = [*_unused(recipe), *_order(recipe), *_unpriced(recipe), *check_sources(recipe, base)]
    result += check_templates(recipe)
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
        result += check_hub_models(recipe)
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
        key = model_key(recipe, name)
        result += refusal_of(key, partial(_check_model, view, recipe.variants[name]))
    # What follows opens the model's folder.
    if any(finding.severity == "error" for finding in result):
        return result
    # Templates that cannot be rendered are no prompts to encode.
    fields = [*study.train[0].inputs]
    result += list(check_templates(recipe, fields)) or list(check_prompts(recipe, study))
    for name, _ in encoders(recipe):
        result += refusal_of(f"variants.{name}.model", partial(_check_encoder, recipe, name))
    for name, variant in recipe.variants.items():
        if variant.kind == "embedding":
            result += refusal_of(f"variants.{name}.model", partial(_check_embedding, variant))
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


def _model_folder(view: Recipe, variant: Variant) -> Path:
    """The local folder of a variant's model, fetched if needed."""
    from prooftune.models import embeddings, loading

    if variant.kind == "encoder":
        return embeddings.resolve(view.model.name, view.model.revision, "encoder")
    return loading.resolve(view.model.name, view.model.revision)


def _check_model(view: Recipe, variant: Variant) -> None:
    from prooftune.models.weight_files import check_weights

    check_weights(_model_folder(view, variant))


def _check_encoder(recipe: Recipe, name: str) -> None:
    from prooftune.models.encoder import check_is_encoder, load_config
    from prooftune.models.weight_files import check_weights

    view = recipe.for_variant(name)
    folder = _model_folder(view, recipe.variants[name])
    check_is_encoder(load_config(folder, view.model.trust_remote_code), folder)
    check_weights(folder)


def _check_embedding(variant: Variant) -> None:
    from prooftune.models import embeddings
    from prooftune.models.weight_files import check_weights

    folder = embeddings.resolve(variant.embedding_model or embeddings.DEFAULT_EMBEDDING)
    embeddings.check_config(folder)
    check_weights(folder)


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


def _unpriced(recipe: Recipe) -> Iterator[Finding]:
    """Endpoints without a price beside a machine that has one: their costs cannot be compared."""
    if recipe.cost.machine_per_hour is None:
        return
    for name, variant in recipe.variants.items():
        if variant.endpoint is not None and variant.endpoint.price is None:
            yield note(
                f"variants.{name}.endpoint.price",
                "not set, so that its cost is not compared with that of variants on this machine "
                "(cost.machine_per_hour); set the price of a million tokens",
            )


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
