"""Files, models, libraries, documents, texts and keys that a recipe names: are they there?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from prooftune.data.source_files import check_files_exist, check_source_exists
from prooftune.errors import Failure, UsageError
from prooftune.preflight.findings import Finding, error
from prooftune.preflight.trained_variants import encoders, trained
from prooftune.recipe import Recipe, Variant
from prooftune.types import SPLITS


def check_sources(recipe: Recipe, base: Path) -> Iterator[Finding]:
    """Files, models, libraries, documents, texts and keys that are not there."""
    for split in SPLITS:
        if getattr(recipe.data, split) is not None:
            yield from refusal_of(
                f"data.{split}", partial(check_source_exists, recipe.data, split, base)
            )
    for name, view in recipe.base_models().items():
        from prooftune.models.loading import check_model_name

        yield from refusal_of(model_key(recipe, name), partial(check_model_name, view.model.name))
    yield from _pretraining_files(recipe, base)
    yield from _embedding_models(recipe)
    for name, _ in encoders(recipe):
        from prooftune.models import embeddings

        model = recipe.for_variant(name).model.name
        yield from refusal_of(
            f"variants.{name}.model", partial(embeddings.check_model_name, model, "encoder")
        )
    yield from _endpoints(recipe)
    if not recipe.has_labels:
        from prooftune.evaluation.answers.scores import require_libraries
        from prooftune.variants.document_files import check_documents

        yield from refusal_of("task", require_libraries)
        yield from refusal_of("retrieval.documents", lambda: check_documents(recipe, base))
    for name, variant in trained(recipe):
        if variant.pairs is not None:
            from prooftune.data.preferences import read_preferences

            yield from refusal_of(
                f"variants.{name}.pairs", partial(read_preferences, base / variant.pairs)
            )
    if trained(recipe) and recipe.forgetting is not None:
        from prooftune.variants.forgetting import general_text

        yield from refusal_of("forgetting", lambda: general_text(recipe.forgetting, base))
    if recipe.judge is not None:
        yield from _judge(recipe, base)


def _pretraining_files(recipe: Recipe, base: Path) -> Iterator[Finding]:
    for name, variant in recipe.variants.items():
        if variant.pretrain is not None and not variant.pretrain.reads_training_rows:
            yield from refusal_of(
                f"variants.{name}.pretrain",
                partial(check_files_exist, variant.pretrain.source(), base),
            )


def check_hub_models(recipe: Recipe) -> Iterator[Finding]:
    """Models that the hub does not give, listed with other errors: without any, the download
    says it at once."""
    from prooftune.models.loading import check_hub_access

    for name, view in recipe.base_models().items():
        key = model_key(recipe, name)
        yield from refusal_of(key, partial(check_hub_access, view.model.name, view.model.revision))


def model_key(recipe: Recipe, name: str) -> str:
    """The key that names the base model of a variant."""
    variant = recipe.variants[name]
    own = [variant, *recipe.sources_of_weights(variant)][-1].model
    return "model.name" if own is None else f"variants.{name}.model"


def _embedding_models(recipe: Recipe) -> Iterator[Finding]:
    for name, variant in recipe.variants.items():
        if variant.kind == "embedding":
            from prooftune.models import embeddings

            model = variant.embedding_model or embeddings.DEFAULT_EMBEDDING
            yield from refusal_of(f"variants.{name}.model", partial(embeddings.resolve, model))
            if variant.prompt_name is not None:
                yield from refusal_of(
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

        yield from refusal_of(
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

        yield from refusal_of("judge.model", lambda: check_model_name(settings.model))
    elif importlib.util.find_spec("openai") is None:
        yield error("judge.base_url", "needs the openai client: pip install 'prooftune[judge]'")
    else:
        from prooftune.chat_client.api_key import read_api_key

        yield from refusal_of("judge.api_key_env", lambda: read_api_key(settings, "judge"))
    if settings.human is not None:
        from prooftune.judge.human import read_human_scores

        human = base / settings.human
        criteria = list(settings.criteria)
        judged = [name for name, variant in recipe.variants.items() if variant.generates]
        yield from refusal_of(
            "judge.human", lambda: read_human_scores(human, criteria, settings.scale, judged)
        )


def refusal_of(key_path: str, look: Callable[[], object]) -> Iterator[Finding]:
    """The error that a call raises, as a finding of a key."""
    try:
        look()
    except (UsageError, Failure) as refusal:
        # Many of these errors begin with the key, which the finding has already.
        message = str(refusal).removeprefix(f"{key_path}: ")
        yield Finding("error", key_path, message, refusal)
