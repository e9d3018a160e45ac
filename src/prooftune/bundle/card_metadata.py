"""YAML front matter of a published model card, which the hub indexes."""

from __future__ import annotations

import re
from typing import Any

from prooftune.bundle.manifest import CardSection, Manifest, StudySummary

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


def front_matter(manifest: Manifest | None, *, merged: bool) -> str:
    """The front matter with its ``---`` lines.

    Args:
        manifest: the bundle's manifest; None for a model folder without one.
        merged: whether the published folder is a whole model rather than an adapter.
    """
    from huggingface_hub import ModelCardData

    study = manifest.get("study") if manifest else None
    adapter = manifest is not None and manifest["part"] == "adapter" and not merged
    licence: dict[str, Any] = _licence(study["card"]) if study else {}
    data: Any = ModelCardData(
        base_model=_base_model(manifest),
        library_name="peft" if adapter else "transformers",
        pipeline_tag=_pipeline(manifest),
        datasets=_datasets(study) if study else None,
        metrics=(list(study.get("metrics") or ()) or None) if study else None,
        tags=_tags(manifest, adapter),
        **licence,
    )
    if study and study.get("metrics"):
        data.model_name = study["name"]
        data.eval_results = _eval_results(manifest, study)
    return f"---\n{data.to_yaml().strip()}\n---\n"


def _base_model(manifest: Manifest | None) -> str | None:
    if manifest is None:
        return None
    study = manifest.get("study")
    name = (study["card"].get("base_model") if study else None) or manifest["model"]["name"]
    return name if _HUB_NAME.fullmatch(name) else None


def _licence(card: CardSection) -> dict[str, Any]:
    licence = card.get("model_licence")
    if not licence:
        return {}
    return (
        {"license": licence.lower()}
        if licence.lower() in _LICENCES
        else {"license": "other", "license_name": licence}
    )


def _pipeline(manifest: Manifest | None) -> str:
    task = manifest["task"] if manifest else None
    if task == "extractive-qa":
        return "question-answering"
    return "text-classification" if task == "classification" else "text-generation"


def _tags(manifest: Manifest | None, adapter: bool) -> list[str]:
    if manifest is None:
        return ["prooftune"]
    return ["prooftune", manifest["task"], *([manifest["method"]] if adapter else [])]


def _datasets(study: StudySummary) -> list[str] | None:
    names = dict.fromkeys(
        path.removeprefix("hub:")
        for path in (study.get("sources") or {}).values()
        if path.startswith("hub:")
    )
    return [
        name for name in names if _HUB_NAME.fullmatch(name) or re.fullmatch(r"[\w.-]+", name)
    ] or None


def _eval_results(manifest: Manifest | None, study: StudySummary) -> list[Any]:
    from huggingface_hub import EvalResult

    source = study["sources"].get("test") or study["sources"]["train"]
    dataset = source.removeprefix("hub:") if source.startswith("hub:") else study["name"]
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
                metric_name=f"{name.replace('_', ' ')} ({interval_text})",
            )
        )
    return results
