"""Write a bundle: the trained weights, and everything else that determines its predictions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from prooftune.bundle import golden
from prooftune.bundle.card import render_card
from prooftune.bundle.layout import ADAPTER_CONFIG, write_base_reference
from prooftune.bundle.manifest import (
    FORMAT,
    GOLDEN,
    AnyManifest,
    ClassifierManifest,
    CommonManifest,
    EncoderManifest,
    Manifest,
    TokenSection,
    is_text_classifier,
)
from prooftune.bundle.study_summary import study_summary
from prooftune.engine.scoring import label_tree
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.score_types import Scores
from prooftune.models import loading
from prooftune.models.text_classifier import SECTION_FILE, VOCABULARY_FILE, WEIGHTS_FILE
from prooftune.recipe import Recipe, dump
from prooftune.run_folder import read_audit, trained_folder
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.types import CONTEXT, Study, VariantResult
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.secrets import redact
from prooftune.version import __version__

PARITY_TOLERANCES = {"none": 1e-6, "tfidf": 1e-6, "embedding": 0.1}
"""Features -> largest difference of log-probabilities, in nats, between a variant and its bundle.
Embeddings are computed in other batches, and in 16 bits where the machine has them."""


def save_bundle(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, folder: Path
) -> None:
    """Write the bundle of one variant of any kind.

    The folder holds ``bundle.json`` (`AnyManifest`), ``recipe.yaml``, ``golden.jsonl`` (outputs for
    some validation rows), ``README.md`` (the model card), and

    - of a tuned variant: the adapter or the model in the layout of peft or transformers, and the
      tokenizer's files; ``from_pretrained`` of transformers and peft opens it;
    - of a variant that prompts the untuned model: the tokenizer's files;
    - of a classifier without a language model: ``classifier.safetensors`` and, for TF-IDF,
      ``vocabulary.json``;
    - of an encoder: the whole model and its tokenizer, as `AutoModelForSequenceClassification`
      opens them;
    - ``index/`` if the variant retrieves.

    It contains no pickle.

    Args:
        recipe: the study's recipe.
        study: its data.
        result: the variant; of several trainings the one to ship.
        scores: content of ``scores.json``.
        folder: folder to write, inside the run folder.

    Raises:
        UsageError: the run is older than bundles of this kind of variant, so that the weights are
            not in its folder.
        Failure: the written bundle predicts something else than the variant did.
    """
    # The whole recipe, before it is narrowed to the variant, without keys in its addresses.
    dumped = redact(dump(recipe))
    recipe = recipe.for_variant(result.name)
    with atomic_path(folder) as temporary:
        if recipe.variants[result.name].uses_language_model:
            manifest: AnyManifest = _write_language_model(
                recipe, study, result, scores, folder.parent, temporary
            )
        elif recipe.variants[result.name].kind == "encoder":
            manifest = _write_encoder(recipe, study, result, scores, folder.parent, temporary)
        else:
            manifest = _write_classifier(recipe, study, result, scores, folder.parent, temporary)
        write_json(temporary / "bundle.json", manifest)
        (temporary / "recipe.yaml").write_text(dumped, encoding="utf-8")
        (temporary / "README.md").write_text(render_card(manifest, scores), encoding="utf-8")
        # Validation rows, never test rows: texts that travel with a bundle may end up in someone's
        # training data, which would spoil the test set.
        rows = golden.sample_rows(study.validation, recipe.bundle.golden, recipe.seed)
        if rows:
            # Load the written bundle, so that the golden set also covers saving and loading.
            bundle = golden.load_reference(temporary, recipe.model.trust_remote_code)
            outputs = golden.make_rows(bundle, golden.shortened(bundle, rows))
            if is_text_classifier(manifest):
                _check_parity(outputs, result, manifest)
            golden.write(temporary / GOLDEN, outputs)


def _check_parity(
    rows: Sequence[golden.GoldenRow], result: VariantResult, manifest: ClassifierManifest
) -> None:
    """Compare the written classifier with the variant's own predictions.

    Raises:
        Failure: a log-probability differs by more than `PARITY_TOLERANCES` allows.
    """
    expected = {prediction.id: prediction.log_probs for prediction in result.validation}
    worst = max(
        abs(a - b)
        for row in rows
        for a, b in zip(row.log_probs, expected.get(row.id, row.log_probs), strict=True)
    )
    if worst > PARITY_TOLERANCES[manifest["classifier"]["features"]]:
        raise Failure(
            f"the bundle of {result.name} was not written: its log-probabilities differ by up to "
            f"{worst:.2g} from those of the variant. Delete {result.folder} and run again"
        )


def _write_classifier(
    recipe: Recipe,
    study: Study,
    result: VariantResult,
    scores: Scores,
    run: Path,
    folder: Path,
) -> ClassifierManifest:
    """Copy a classifier's weights into a bundle, and make its manifest."""
    if not (result.folder / SECTION_FILE).is_file():
        raise UsageError(
            f"{result.folder} holds no classifier: its run is older than bundles of kind: "
            f"{result.kind}. Delete this folder and run the recipe again"
        )
    folder.mkdir()
    for name in (WEIGHTS_FILE, VOCABULARY_FILE):
        if (result.folder / name).is_file():
            shutil.copyfile(result.folder / name, folder / name)
    return {
        **_common_manifest(recipe, study, result, scores, run),
        "classifier": read_json(result.folder / SECTION_FILE),
    }


def _write_encoder(
    recipe: Recipe,
    study: Study,
    result: VariantResult,
    scores: Scores,
    run: Path,
    folder: Path,
) -> EncoderManifest:
    """Copy an encoder's whole model and tokenizer into a bundle, and make its manifest."""
    from prooftune.models import embeddings

    shutil.copytree(result.folder / "trained", folder)
    base = embeddings.resolve(recipe.model.name, recipe.model.revision)
    return {
        **_common_manifest(recipe, study, result, scores, run),
        "encoder": {
            "name": recipe.model.name,
            "revision": recipe.model.revision,
            "sha256": loading.weights_digest(base),
            "dtype": recipe.model.dtype,
            "max_length": recipe.prompt.max_length,
            "batch_tokens": recipe.scoring.fixed_batch_tokens,
            "trust_remote_code": recipe.model.trust_remote_code,
        },
    }


def _write_language_model(
    recipe: Recipe,
    study: Study,
    result: VariantResult,
    scores: Scores,
    run: Path,
    folder: Path,
) -> Manifest:
    """Copy a language model's files into a bundle, and make its manifest."""
    trained = trained_folder(result) / "trained"
    manifest = _make_manifest(recipe, study, result, scores, run)
    if manifest["part"] == "base":
        folder.mkdir()
    else:
        shutil.copytree(trained, folder)
    if manifest["part"] == "adapter":
        write_base_reference(folder / ADAPTER_CONFIG, recipe.model.name, recipe.model.revision)
    if manifest.get("retrieval"):
        shutil.copytree(run / "index", folder / "index")
    tokenizer = loading.load_tokenizer(loading.resolve(recipe.model.name, recipe.model.revision))
    # From the base model: training writes weights without a tokenizer.
    tokenizer.save_pretrained(folder)
    return manifest


def _common_manifest(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, run: Path
) -> CommonManifest:
    variant_scores = scores["variants"][result.name]
    manifest: CommonManifest = {
        "format": FORMAT,
        "prooftune_version": __version__,
        "task": recipe.task,
        "labels": study.labels,
        "fields": list(study.test[0].inputs),
        "variant": result.name,
        "method": result.details.get("method", recipe.variants[result.name].kind),
        "temperature": variant_scores.get("temperature"),
        "abstention": variant_scores.get("abstention"),
        "study": study_summary(recipe, study, result, scores, _audit_findings(run)),
    }
    if recipe.decides_by_cost(recipe.variants[result.name]):
        manifest["costs"] = recipe.costs
    if recipe.task == "multilabel":
        manifest["label_threshold"] = variant_scores.get("threshold")
    return manifest


def _make_manifest(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, run: Path
) -> Manifest:
    base = loading.resolve(recipe.model.name, recipe.model.revision)
    tokenizer = loading.load_tokenizer(base)
    variant, rendering = recipe.variants[result.name], read_json(result.folder / "rendering.json")
    retrieves = variant.context == "retrieved"
    common = _common_manifest(recipe, study, result, scores, run)
    fields = common["fields"]
    if retrieves or variant.context == "none":
        # Passages are the first input, as in `with_passages`.
        fields = [*([CONTEXT] if retrieves else []), *(name for name in fields if name != CONTEXT)]
    model: Any = {**recipe.model.model_dump(), "sha256": loading.weights_digest(base)}
    encoder = PromptEncoder(Rendering.from_json(rendering), tokenizer, fields)
    no_answer = recipe.answering.no_answer if recipe.task == "extractive-qa" else None
    manifest: dict[str, Any] = {
        **common,
        "fields": fields,
        "objective": "head" if result.details.get("objective") == "head" else "instruction",
        "model": model,
        "quantization": recipe.quantization,
        "rendering": rendering,
        "tokens": _token_section(encoder, no_answer),
        "scoring": recipe.scoring.model_dump(),
        "part": _part(recipe, result),
    }
    if not recipe.has_labels:
        manifest["answering"] = recipe.answering.model_dump()
        threshold = scores["variants"][result.name].get("no_answer")
        manifest["threshold"] = threshold["value"] if threshold else None
        manifest["retrieval"] = (
            recipe.retrieval.model_dump() if recipe.retrieval and retrieves else None
        )
    return cast(Manifest, manifest)


def _part(recipe: Recipe, result: VariantResult) -> Literal["adapter", "model", "base"]:
    """What the bundle holds of the model."""
    if not recipe.variants[result.name].is_tuned:
        return "base"
    is_adapter = (trained_folder(result) / "trained" / ADAPTER_CONFIG).is_file()
    return "adapter" if is_adapter else "model"


def _audit_findings(run: Path) -> list[str]:
    """Findings of the run's data audit, one sentence each."""
    return [str(finding["message"]) for finding in read_audit(run).get("findings", [])]


def _token_section(encoder: PromptEncoder, no_answer: str | None) -> TokenSection:
    """Prompt and labels as token ids, for loading the bundle without Prooftune.

    Args:
        encoder: renders the prompts.
        no_answer: text for "no answer" that competes with the answers; None where none does.
    """
    if not encoder.label_ids:
        section: TokenSection = {"prompt": encoder.prompt_parts(), "stop": encoder.stop_token_id}
        if no_answer is not None:
            section["no_answer"] = [*encoder.encode_answer(no_answer), encoder.stop_token_id]
        return section
    tree = label_tree(encoder.label_ids, encoder.stop_token_id)
    labels = {
        label: [token for _, token in reads]
        for label, reads in zip(encoder.rendering.labels, tree.label_terms, strict=True)
    }
    return {"prompt": encoder.prompt_parts(), "labels": labels, "stop": encoder.stop_token_id}
