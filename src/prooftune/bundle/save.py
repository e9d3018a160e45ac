"""Write a bundle: the trained weights, and everything else that determines its predictions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prooftune.bundle import golden
from prooftune.bundle.card import render_card
from prooftune.bundle.card_sections import study_summary
from prooftune.bundle.layout import ADAPTER_CONFIG, write_base_reference
from prooftune.bundle.manifest import FORMAT, GOLDEN, Manifest, TokenSection
from prooftune.engine.scoring import label_tree
from prooftune.evaluation.score_types import Scores
from prooftune.models import loading
from prooftune.recipe import Recipe, dump
from prooftune.tasks.prompt_encoding import PromptEncoder, Rendering
from prooftune.types import CONTEXT, Study, VariantResult
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.secrets import redact
from prooftune.version import __version__


def save_bundle(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, folder: Path
) -> None:
    """Write the bundle of one tuned variant.

    The folder holds ``bundle.json`` (`Manifest`), the adapter or the model in the layout of peft or
    transformers, the tokenizer's files, ``recipe.yaml``, ``golden.jsonl`` (outputs for some
    validation rows, to check exports), ``index/`` if the variant retrieves, and ``README.md`` (the
    model card). ``from_pretrained`` of transformers and peft opens it. It contains no pickle.

    Args:
        recipe: the study's recipe.
        study: its data.
        result: the tuned variant.
        scores: content of ``scores.json``.
        folder: folder to write, inside the run folder.
    """
    dumped = redact(dump(recipe))
    recipe = recipe.for_variant(result.name)
    trained = _trained_folder(recipe, result)
    manifest = _make_manifest(recipe, study, result, scores, folder.parent)
    retrieves = recipe.variants[result.name].context == "retrieved"
    tokenizer = loading.load_tokenizer(loading.resolve(recipe.model.name, recipe.model.revision))
    with atomic_path(folder) as temporary:
        shutil.copytree(trained, temporary)
        if manifest["part"] == "adapter":
            write_base_reference(
                temporary / ADAPTER_CONFIG, recipe.model.name, recipe.model.revision
            )
        if retrieves:
            shutil.copytree(folder.parent / "index", temporary / "index")
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "bundle.json", manifest)
        (temporary / "recipe.yaml").write_text(dumped, encoding="utf-8")
        (temporary / "README.md").write_text(render_card(manifest, scores), encoding="utf-8")
        # Validation rows, never test rows: texts that travel with a bundle may end up in someone's
        # training data, which would spoil the test set.
        rows = golden.sample_rows(study.validation, recipe.bundle.golden, recipe.seed)
        if rows:
            # Load the written bundle, so that the golden set also covers saving and loading.
            bundle = golden.load_float32(temporary, recipe.model.trust_remote_code)
            golden.write(temporary / GOLDEN, golden.make_rows(bundle, rows))


def _make_manifest(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, run: Path
) -> Manifest:
    base = loading.resolve(recipe.model.name, recipe.model.revision)
    is_adapter = (_trained_folder(recipe, result) / ADAPTER_CONFIG).is_file()
    variant_scores = scores["variants"][result.name]
    tokenizer = loading.load_tokenizer(base)
    variant, rendering = recipe.variants[result.name], read_json(result.folder / "rendering.json")
    retrieves = variant.context == "retrieved"
    fields = list(study.test[0].inputs)
    if retrieves or variant.context == "none":
        fields = [*([CONTEXT] if retrieves else []), *(name for name in fields if name != CONTEXT)]
    model: Any = {**recipe.model.model_dump(), "sha256": loading.weights_digest(base)}
    manifest: Manifest = {
        "format": FORMAT,
        "prooftune_version": __version__,
        "task": recipe.task,
        "labels": study.labels,
        "fields": fields,
        "variant": result.name,
        "objective": "head" if result.details["objective"] == "head" else "instruction",
        "method": result.details["method"],
        "model": model,
        "quantization": recipe.quantization,
        "rendering": rendering,
        "tokens": _token_section(PromptEncoder(Rendering.from_json(rendering), tokenizer, fields)),
        "scoring": recipe.scoring.model_dump(),
        "temperature": variant_scores.get("temperature"),
        "abstention": variant_scores.get("abstention"),
        "part": "adapter" if is_adapter else "model",
        "study": study_summary(recipe, study, result, scores, _audit_findings(run)),
    }
    if recipe.task != "classification":
        manifest["answering"] = recipe.answering.model_dump()
        threshold = variant_scores.get("no_answer")
        manifest["threshold"] = threshold["value"] if threshold else None
        manifest["retrieval"] = (
            recipe.retrieval.model_dump() if recipe.retrieval and retrieves else None
        )
    return manifest


def _trained_folder(recipe: Recipe, result: VariantResult) -> Path:
    """The variant's trained weights; with ``adapter``, those of the variant that it names."""
    source = recipe.variants[result.name].adapter
    return (result.folder.parent / source if source else result.folder) / "trained"


def _audit_findings(run: Path) -> list[str]:
    """Findings of the run's data audit, one sentence each."""
    path = run / "data" / "audit.json"
    return (
        [str(finding["message"]) for finding in read_json(path)["findings"]]
        if path.is_file()
        else []
    )


def _token_section(encoder: PromptEncoder) -> TokenSection:
    """Prompt and labels as token ids, for loading the bundle without Prooftune."""
    if not encoder.label_ids:
        return {"prompt": encoder.prompt_parts(), "stop": encoder.stop_token_id}
    tree = label_tree(encoder.label_ids, encoder.stop_token_id)
    labels = {
        label: [token for _, token in reads]
        for label, reads in zip(encoder.rendering.labels, tree.label_terms, strict=True)
    }
    return {"prompt": encoder.prompt_parts(), "labels": labels, "stop": encoder.stop_token_id}
