"""Write a bundle: the trained part, and everything that decides how it answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prooftune import recipe
from prooftune.bundle import golden
from prooftune.bundle.card import render_card
from prooftune.bundle.card_sections import study_summary
from prooftune.bundle.manifest import FORMAT, GOLDEN
from prooftune.engine.scoring import label_tree
from prooftune.models import loading
from prooftune.recipe import Recipe
from prooftune.tasks.prompts import PromptEncoder, Rendering
from prooftune.types import CONTEXT, Study, VariantResult
from prooftune.utils.files import atomic_path, read_json, write_json
from prooftune.utils.secrets import redact
from prooftune.version import __version__


def save_bundle(
    chosen: Recipe, study: Study, result: VariantResult, scores: dict[str, Any], folder: Path
) -> None:
    """Write the bundle of one tuned variant.

    The folder holds ``bundle.json`` (labels, rendering and the token ids that it comes to, scoring,
    temperature, abstention threshold, base model with its weights' digest), ``adapter/`` or
    ``model/`` in the libraries' own layout, ``tokenizer/``, ``recipe.yaml``, ``golden.jsonl`` (what
    it says to some rows, for checking exports) and ``README.md`` (the card). It holds no pickle.
    """
    base = loading.resolve(chosen.model.name, chosen.model.revision)
    trained = result.folder / "trained"
    part = "adapter" if (trained / "adapter_config.json").is_file() else "model"
    own = scores["variants"][result.name]
    tokenizer = loading.load_tokenizer(base)
    variant, rendering = chosen.variants[result.name], read_json(result.folder / "rendering.json")
    retrieves = variant.context == "retrieved"
    fields = list(study.test[0].inputs)
    if retrieves or variant.context == "none":
        fields = [*([CONTEXT] if retrieves else []), *(name for name in fields if name != CONTEXT)]
    manifest = {
        "format": FORMAT,
        "prooftune_version": __version__,
        "task": chosen.task,
        "labels": study.labels,
        "fields": fields,
        "variant": result.name,
        "objective": result.details["objective"],
        "method": result.details["method"],
        "model": {**chosen.model.model_dump(), "sha256": loading.weights_digest(base)},
        "quantization": chosen.quantization,
        "rendering": rendering,
        "tokens": _tokens(PromptEncoder(Rendering.from_json(rendering), tokenizer, fields)),
        "scoring": chosen.scoring.model_dump(),
        "temperature": own.get("temperature"),
        "abstention": own.get("abstention"),
        "part": part,
        "study": study_summary(chosen, study, result, scores, _audit(folder.parent)),
    }
    if chosen.task != "classification":
        manifest |= {
            "answering": chosen.answering.model_dump(),
            "threshold": (own.get("no_answer") or {}).get("value"),
            "retrieval": chosen.retrieval.model_dump() if chosen.retrieval and retrieves else None,
        }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        shutil.copytree(trained, temporary / part)
        if part == "adapter":
            _portable(temporary / part / "adapter_config.json", chosen.model.name)
        if retrieves:
            shutil.copytree(folder.parent / "index", temporary / "index")
        tokenizer.save_pretrained(temporary / "tokenizer")
        write_json(temporary / "bundle.json", manifest)
        (temporary / "recipe.yaml").write_text(redact(recipe.dump(chosen)), encoding="utf-8")
        (temporary / "README.md").write_text(render_card(manifest, scores), encoding="utf-8")
        # Validation rows: a test set whose texts were handed on with the bundle would soon be
        # trained on.
        rows = golden.drawn(study.validation, chosen.bundle.golden, chosen.seed)
        if rows:
            # By the bundle as it was written, not by the model in memory.
            written = golden.exact(temporary, chosen.model.trust_remote_code)
            golden.write(temporary / GOLDEN, golden.make(written, rows))


def _audit(run: Path) -> list[str]:
    """What the run's audit found, one sentence each."""
    path = run / "data" / "audit.json"
    return (
        [str(finding["message"]) for finding in read_json(path)["findings"]]
        if path.is_file()
        else []
    )


def _tokens(encoder: PromptEncoder) -> dict[str, Any]:
    """Prompt and labels as token ids, for whoever loads the bundle without Prooftune."""
    if not encoder.label_ids:
        return {"prompt": encoder.prompt_parts(), "stop": encoder.stop_token_id}
    tree = label_tree(encoder.label_ids, encoder.stop_token_id)
    labels = {
        label: [token for _, token in reads]
        for label, reads in zip(encoder.rendering.labels, tree.label_terms, strict=True)
    }
    return {"prompt": encoder.prompt_parts(), "labels": labels, "stop": encoder.stop_token_id}


def _portable(config: Path, model: str) -> None:
    """peft notes the folder that the base was loaded from, which is this machine's; note the
    model's name."""
    values = read_json(config)
    values["base_model_name_or_path"] = model
    write_json(config, values)
