"""YAML front matter of a published model card, which the hub indexes."""

from __future__ import annotations

import re
from typing import Any

from prooftune.bundle.manifest import (
    AnyManifest,
    CardSection,
    StudySummary,
    is_encoder,
    is_language_model,
    is_text_classifier,
)
from prooftune.evaluation.primary import title_of
from prooftune.recipe.data import LABEL_TASKS

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCES = (
    "apache-2.0",
    "mit",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "gemma",
    "openrail",
    "bigscience-openrail-m",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "bsd-3-clause",
    "gpl-3.0",
    "mpl-2.0",
)
"""Licence identifiers of the hub; any other licence is written as ``other`` with its name."""


def front_matter(manifest: AnyManifest | None, *, merged: bool) -> str:
    """The front matter with its ``---`` lines.

    Args:
        manifest: the bundle's manifest; None for a model folder without one.
        merged: whether the published folder is a whole model rather than an adapter.
    """
    from huggingface_hub import ModelCardData

    study = manifest.get("study") if manifest else None
    licence: dict[str, Any] = _licence(study["card"]) if study else {}
    data: Any = ModelCardData(
        base_model=_base_model(manifest),
        library_name=_library(manifest, merged=merged),
        pipeline_tag=_pipeline(manifest),
        datasets=_datasets(study) if study else None,
        metrics=(list(study.get("metrics") or ()) or None) if study else None,
        tags=_tags(manifest, tuned=not merged),
        **licence,
    )
    if study and study.get("metrics"):
        # huggingface_hub writes results only together with a model name.
        data.model_name = study["name"]
        data.eval_results = _eval_results(manifest, study)
    return f"---\n{data.to_yaml().strip()}\n---\n"


def _base_model(manifest: AnyManifest | None) -> str | None:
    if manifest is None:
        return None
    study = manifest.get("study")
    if is_text_classifier(manifest):
        embedding = manifest["classifier"]["embedding"]
        name = embedding["name"] if embedding else ""
    elif is_encoder(manifest):
        name = manifest["encoder"]["name"]
    else:
        name = (study["card"].get("base_model") if study else None) or manifest["model"]["name"]
    # The hub links this name; a folder of this machine is neither valid nor public.
    return name if _HUB_NAME.fullmatch(name) else None


def _library(manifest: AnyManifest | None, *, merged: bool) -> str:
    """The library that loads the folder."""
    if manifest is None or merged:
        return "transformers"
    if is_text_classifier(manifest):
        embeds = manifest["classifier"]["features"] == "embedding"
        return "sentence-transformers" if embeds else "sklearn"
    if is_encoder(manifest):
        return "transformers"
    return "peft" if manifest["part"] == "adapter" else "transformers"


def _licence(card: CardSection) -> dict[str, Any]:
    licence = card.get("model_licence")
    if not licence:
        return {}
    return (
        {"license": licence.lower()}
        if licence.lower() in _LICENCES
        else {"license": "other", "license_name": licence}
    )


def _pipeline(manifest: AnyManifest | None) -> str:
    task = manifest["task"] if manifest else None
    if task == "extractive-qa":
        return "question-answering"
    return "text-classification" if task in LABEL_TASKS else "text-generation"


def _tags(manifest: AnyManifest | None, *, tuned: bool) -> list[str]:
    """Tags of the hub; a whole model, merged or fully tuned, is not tagged with its method."""
    if manifest is None:
        return ["prooftune"]
    whole = not tuned or (is_language_model(manifest) and manifest["part"] == "model")
    whole = whole or is_encoder(manifest)
    return ["prooftune", manifest["task"], *([] if whole else [manifest["method"]])]


def _datasets(study: StudySummary) -> list[str] | None:
    names = dict.fromkeys(
        name for files in (study.get("sources") or {}).values() for name in _hub_names(files)
    )
    return [
        name for name in names if _HUB_NAME.fullmatch(name) or re.fullmatch(r"[\w.-]+", name)
    ] or None


def _hub_names(files: str) -> list[str]:
    """The data sets of the hub among a split's files."""
    return re.findall(r"(?:^|[ ,])hub:([^\s,]+)", files)


def _eval_results(manifest: AnyManifest | None, study: StudySummary) -> list[Any]:
    from huggingface_hub import EvalResult

    source = study["sources"].get("test") or study["sources"]["train"]
    dataset = next(iter(_hub_names(source)), study["name"])
    results = []
    for name, m in study["metrics"].items():
        interval_text = (
            f"{study['confidence']:.0%} interval {m['low']:.4f} to {m['high']:.4f}, n = "
            f"{study['n']}"
        )
        results.append(
            EvalResult(
                task_type=_pipeline(manifest),
                dataset_type=dataset,
                dataset_name=study["name"],
                dataset_split="test",
                metric_type=name,
                metric_value=m["value"],
                metric_name=f"{title_of(name)} ({interval_text})",
            )
        )
    return results
