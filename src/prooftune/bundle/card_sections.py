"""What a bundle's card says of the study it comes from: figures, data, audit, training,
environment, licences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prooftune.models.environment import describe_environment
from prooftune.models.loading import ORIGINS
from prooftune.recipe import Recipe
from prooftune.types import Study, VariantResult
from prooftune.utils import package_files
from prooftune.utils.secrets import redact

_NOT_STATED = "not stated"


def study_summary(
    chosen: Recipe, study: Study, result: VariantResult, scores: Mapping[str, Any], audit: list[str]
) -> dict[str, Any]:
    """What ``bundle.json`` keeps of the study, so that a card can be written without the run.

    Args:
        chosen: the recipe.
        study: its data.
        result: the bundled variant.
        scores: the study's scores.
        audit: what the audit found, one sentence each.
    """
    own = scores["variants"][result.name]
    training = result.details.get("training", {})
    sources = {
        split: getattr(chosen.data, split).path
        for split in ("train", "validation", "test")
        if getattr(chosen.data, split)
    }
    return {
        "name": chosen.name,
        "verdict": scores["verdict"]["sentence"],
        "n": scores.get("n"),
        "confidence": scores.get("confidence"),
        "primary": scores.get("primary"),
        "metrics": {
            name: m
            for name, m in own["metrics"].items()
            if isinstance(m, dict) and m.get("low") is not None
        },
        "variants": {
            name: one["metrics"][scores["primary"]]
            for name, one in scores["variants"].items()
            if scores.get("primary") in one["metrics"]
        },
        # Names of files, not the folders of this machine.
        "sources": {
            split: path if _is_public(path) else path.replace("\\", "/").rpartition("/")[2]
            for split, path in sources.items()
        },
        "rows": {split: len(examples) for split, examples in study.splits().items()},
        "notes": list(study.notes),
        "audit": audit,
        "training": {
            "method": result.details["method"],
            "objective": result.details["objective"],
            **chosen.lora,
            **training.get("arguments", {}),
            "epochs_trained": training.get("epochs"),
            "seed": chosen.seed,
        },
        "parameters": {
            "trainable": training.get("trainable_parameters"),
            "total": training.get("total_parameters"),
        },
        "environment": {
            name: value
            for name, value in describe_environment(chosen).items()
            if name not in ("model", "model_sha256")
        },
        "card": _card(chosen),
    }


def _card(chosen: Recipe) -> dict[str, Any]:
    """What the recipe says for the card, and what is known of a model that it names by a short
    name."""
    said = chosen.card.model_dump()
    base, licence = ORIGINS.get(chosen.model.name.lower(), (None, None))
    return {
        **said,
        "base_model": said["base_model"] or base,
        "model_licence": said["model_licence"] or licence,
    }


def _is_public(path: str) -> bool:
    return path.startswith("hub:") or package_files.is_reference(path)


def render_sections(manifest: Mapping[str, Any], metrics: str) -> str:
    """The sections of the card between its head and how to load it, as Markdown.

    Args:
        manifest: the content of ``bundle.json``.
        metrics: rows of the table of metrics.
    """
    known = manifest.get("study") or {}
    sections = [
        f"## How well it does\n\n{_measured(known)}| metric | value | interval "
        f"|\n|---|---|---|\n{metrics}\n"
    ]
    if known:
        card = known["card"]
        sections += [
            _compared(known),
            _section("Intended use", card["intended_use"] or _use(manifest)),
            _section("Limits", card["limits"] or _limits(manifest)),
            _data(known),
            _audit(known),
            _trained(manifest, known),
            _section("Environment", _list(known["environment"])),
            _licences(manifest, known),
        ]
    return redact("\n".join(section for section in sections if section))


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n" if text else ""


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {name.replace('_', ' ')}: {_said(value)}"
        for name, value in values.items()
        if value is not None
    )


def _said(value: Any) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def _measured(known: Mapping[str, Any]) -> str:
    if not known.get("n"):
        return ""
    return f"On {known['n']:,} test examples, with {known['confidence']:.0%} intervals:\n\n"


def _compared(known: Mapping[str, Any]) -> str:
    if len(known["variants"]) < 2:
        return ""
    rows = "\n".join(
        f"| {name} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in known["variants"].items()
    )
    return (
        f"Beside it, on the same examples:\n\n| variant | {known['primary']} | interval "
        f"|\n|---|---|---|\n{rows}\n"
    )


def _use(manifest: Mapping[str, Any]) -> str:
    if manifest["labels"]:
        return (
            "To give texts like those of the study one of the labels "
            f"{', '.join(manifest['labels'])}. "
            "Whoever made it has stated nothing further."
        )
    return (
        "To answer questions like those of the study. Whoever made it has stated nothing further."
    )


def _limits(manifest: Mapping[str, Any]) -> str:
    text = (
        "The figures hold for texts like the test examples; other topics, languages or times were "
        "not measured. "
        f"Prompts of more than {manifest['rendering']['max_length']} tokens are shortened."
    )
    if manifest["labels"]:
        text += " It gives one of its labels to any text, also to one that fits none."
    threshold = (manifest.get("abstention") or {}).get("threshold")
    if threshold is not None:
        target = manifest["abstention"]["target"]
        text += (
            f" Labels of a probability of {threshold:.3f} or more were right in at least "
            f"{target:.1%} of the validation rows; "
            "others are marked as abstained."
        )
    return text


def _data(known: Mapping[str, Any]) -> str:
    sources = "\n".join(f"- {split}: {path}" for split, path in known["sources"].items())
    rows = ", ".join(f"{count:,} {split}" for split, count in known["rows"].items())
    notes = "".join(f"\n- {note}" for note in known["notes"])
    return _section("Data", f"{sources}\n- examples: {rows}{notes}")


def _audit(known: Mapping[str, Any]) -> str:
    found = "\n".join(f"- {message}" for message in known["audit"])
    return _section(
        "Audit of the data",
        found or "No leak between the splits, and nothing else, was found or recorded.",
    )


def _trained(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    counts = known["parameters"]
    share = ""
    if counts["trainable"] and counts["total"]:
        share = f"\n- parameters trained: {counts['trainable']:,} of {counts['total']:,}"
    quantized = (
        f"\n- quantization of the base: {manifest['quantization']}"
        if manifest["quantization"]
        else ""
    )
    return _section("Training", _list(known["training"]) + share + quantized)


def _licences(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    card = known["card"]
    return _section(
        "Licences",
        f"- base model ({manifest['model']['name']}): {card['model_licence'] or _NOT_STATED}\n"
        f"- data: {card['data_licence'] or _NOT_STATED}",
    )
