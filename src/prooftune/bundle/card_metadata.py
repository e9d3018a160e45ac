"""The YAML at the head of a published card, by which the hub finds and shows a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
"""Words that the hub knows; another licence is ``other`` with its name."""


def front_matter(manifest: Mapping[str, Any], *, merged: bool) -> str:
    """The front matter with its ``---`` lines.

    Args:
        manifest: the content of ``bundle.json``; empty where a folder has none.
        merged: whether what is published is a whole model.
    """
    from huggingface_hub import ModelCardData

    known = manifest.get("study") or {}
    card = known.get("card") or {}
    adapter = manifest.get("part") == "adapter" and not merged
    data: Any = ModelCardData(
        base_model=_base(manifest, card),
        library_name="peft" if adapter else "transformers",
        pipeline_tag=_pipeline(manifest),
        datasets=_datasets(known),
        metrics=_metrics(known),
        tags=_tags(manifest, adapter),
        **_licence(card),
    )
    if known.get("metrics"):
        data.model_name = known["name"]
        data.eval_results = _results(manifest, known)
    return f"---\n{data.to_yaml().strip()}\n---\n"


def _base(manifest: Mapping[str, Any], card: Mapping[str, Any]) -> str | None:
    name = card.get("base_model") or (manifest.get("model") or {}).get("name") or ""
    return name if _HUB_NAME.fullmatch(name) else None


def _licence(card: Mapping[str, Any]) -> dict[str, Any]:
    said = card.get("model_licence")
    if not said:
        return {}
    return (
        {"license": said.lower()}
        if said.lower() in _LICENCES
        else {"license": "other", "license_name": said}
    )


def _pipeline(manifest: Mapping[str, Any]) -> str:
    if manifest.get("task") == "extractive-qa":
        return "question-answering"
    return "text-classification" if manifest.get("task") == "classification" else "text-generation"


def _tags(manifest: Mapping[str, Any], adapter: bool) -> list[str]:
    return [
        "prooftune",
        *([str(manifest["task"])] if manifest.get("task") else []),
        *([str(manifest["method"])] if adapter else []),
    ]


def _datasets(known: Mapping[str, Any]) -> list[str] | None:
    names = dict.fromkeys(
        path.removeprefix("hub:")
        for path in (known.get("sources") or {}).values()
        if path.startswith("hub:")
    )
    return [
        name for name in names if _HUB_NAME.fullmatch(name) or re.fullmatch(r"[\w.-]+", name)
    ] or None


def _metrics(known: Mapping[str, Any]) -> list[str] | None:
    return list(known.get("metrics") or ()) or None


def _results(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    source = known["sources"].get("test") or known["sources"]["train"]
    dataset = source.removeprefix("hub:") if source.startswith("hub:") else known["name"]
    results = []
    for name, m in known["metrics"].items():
        span = (
            f"{known['confidence']:.0%} interval {m['low']:.4f} to {m['high']:.4f}, n = "
            f"{known['n']}"
        )
        results.append(
            EvalResult(
                task_type=_pipeline(manifest),
                dataset_type=dataset,
                dataset_name=known["name"],
                dataset_split="test",
                metric_type=name,
                metric_value=m["value"],
                metric_name=f"{name.replace('_', ' ')} ({span})",
            )
        )
    return results
