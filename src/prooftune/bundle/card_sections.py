"""Sections of the model card: results, data, audit, training, environment, licences."""

from __future__ import annotations

from collections.abc import Mapping

from prooftune.bundle.manifest import (
    AbstentionSection,
    AnyManifest,
    StudySummary,
    is_encoder,
    is_language_model,
    label_threshold,
)
from prooftune.evaluation.primary import title_of
from prooftune.utils.secrets import redact

_NOT_STATED = "not stated"


def render_sections(manifest: AnyManifest, metrics: str) -> str:
    """The card's sections between title and loading instructions, as Markdown.

    Args:
        manifest: the bundle's manifest.
        metrics: rows of the metrics table.
    """
    study = manifest.get("study")
    sections = [
        f"## Results\n\n{_metrics_heading(study) if study else ''}| metric | value | interval "
        f"|\n|---|---|---|\n{metrics}\n"
    ]
    if study:
        card = study["card"]
        sections += [
            _compare_variants(study),
            _section("Intended use", card["intended_use"] or _default_use(manifest)),
            _section("Limits", card["limits"] or _default_limits(manifest)),
            _section("Abstention", _abstention(manifest)),
            _data_section(study),
            _audit_section(study),
            _training_section(manifest, study),
            _section("Environment", _bullet_list(study["environment"])),
            _licence_section(manifest, study),
        ]
    # Sources and training options may contain addresses with passwords.
    return redact("\n".join(section for section in sections if section))


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}\n" if text else ""


def _bullet_list(values: Mapping[str, object]) -> str:
    return "\n".join(
        f"- {name.replace('_', ' ')}: {_format_value(value)}"
        for name, value in values.items()
        if value is not None
    )


def _format_value(value: object) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def _metrics_heading(study: StudySummary) -> str:
    if not study.get("n"):
        return ""
    which = _which_training(study)
    return f"{which}On {study['n']:,} test examples, with {study['confidence']:.0%} intervals:\n\n"


def _which_training(study: StudySummary) -> str:
    """Of several trainings, which one this is, and the mean of all."""
    trainings = study.get("trainings")
    if not trainings or not study["primary"]:
        return ""
    mean, own = trainings["mean"], study["metrics"].get(study["primary"])
    name = title_of(study["primary"])
    figure = f" Its {name} is {own['value']:.4f}." if own else ""
    return (
        f"The variant was trained {trainings['count']} times with different seeds. This is "
        f"training {trainings['number']}, the best on validation rows.{figure} The mean of all "
        f"trainings is {mean['value']:.4f} ({mean['low']:.4f} to {mean['high']:.4f}, over test "
        f"rows and trainings), with a standard deviation of {trainings['sd']:.4f} between "
        "trainings. The verdict is about this mean; the table is of this training.\n\n"
    )


def _compare_variants(study: StudySummary) -> str:
    if len(study["variants"]) < 2:
        return ""
    rows = "\n".join(
        f"| {name} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        for name, m in study["variants"].items()
    )
    title = title_of(study["primary"] or "")
    return (
        f"All variants on the same examples:\n\n| variant | {title} | interval "
        f"|\n|---|---|---|\n{rows}\n"
    )


def _default_use(manifest: AnyManifest) -> str:
    purpose = (
        f"Classifies texts like those of the study into {', '.join(manifest['labels'])}."
        if manifest["labels"]
        else "Answers questions like those of the study."
    )
    return f"{purpose} The author has stated nothing further."


def _default_limits(manifest: AnyManifest) -> str:
    text = (
        "The results hold for texts like the test examples; other topics, languages or periods "
        "were not measured."
    )
    if is_language_model(manifest):
        text += f" Prompts of more than {manifest['rendering']['max_length']} tokens are truncated."
    if is_encoder(manifest):
        text += f" Texts of more than {manifest['encoder']['max_length']} tokens are truncated."
    threshold = label_threshold(manifest)
    if threshold is not None:
        text += (
            f" A label is given if its probability is at least {threshold:g}; a text may get none."
        )
    elif manifest["labels"]:
        text += " Every text gets one of the labels, even if none fits."
        if manifest.get("costs") is not None:
            text += (
                " The label is the one of least expected cost, by the costs of errors in the "
                "study; other programs that load an export choose the most probable label."
            )
    return text


def _abstention(manifest: AnyManifest) -> str:
    """What the confidence threshold does, guarantees, and gives on the test examples. Not a part of
    the limits, which an author may write anew."""
    abstention = manifest.get("abstention") or {}
    threshold = abstention.get("threshold")
    if threshold is None:
        return ""
    text = (
        f"Labels with a probability below {threshold:.3f} are marked as abstained."
        f"{_guarantee(abstention)}"
    )
    figure = abstention.get("accuracy")
    if figure:
        text += (
            f" Measured on the test examples: {abstention['coverage']:.1%} of the labels reach the "
            f"threshold, and {figure['value']:.1%} of these are correct ({figure['low']:.1%} to "
            f"{figure['high']:.1%})."
        )
    return text


def _guarantee(abstention: AbstentionSection) -> str:
    """What holds of the labels above the threshold; bundles of version 0.1 only have a target."""
    target, confidence = abstention.get("target"), abstention.get("confidence")
    if target is None:
        return ""
    if confidence is None:
        return f" The target for the others is {target:.1%} accuracy."
    roughly = ", approximately, since they come in groups" if abstention.get("grouped") else ""
    return (
        f" Of the other labels, at least {target:.1%} are correct on texts like those of the "
        f"study. The validation examples guarantee this with a probability of {confidence:.0%}"
        f"{roughly}."
    )


def _data_section(study: StudySummary) -> str:
    sources = "\n".join(f"- {split}: {path}" for split, path in study["sources"].items())
    rows = ", ".join(f"{count:,} {split}" for split, count in study["rows"].items())
    notes = "".join(f"\n- {note}" for note in study["notes"])
    return _section("Data", f"{sources}\n- examples: {rows}{notes}")


def _audit_section(study: StudySummary) -> str:
    findings = "\n".join(f"- {message}" for message in study["audit"])
    return _section(
        "Audit of the data",
        findings or "No leak between the splits and no other problem was recorded.",
    )


def _training_section(manifest: AnyManifest, study: StudySummary) -> str:
    counts = study["parameters"]
    share = ""
    if counts["trainable"] and counts["total"]:
        share = f"\n- parameters trained: {counts['trainable']:,} of {counts['total']:,}"
    quantized = ""
    if is_language_model(manifest) and manifest["quantization"]:
        quantized = f"\n- quantization of the base: {manifest['quantization']}"
    return _section("Training", _bullet_list(study["training"]) + share + quantized)


def _licence_section(manifest: AnyManifest, study: StudySummary) -> str:
    card = study["card"]
    data = f"- data: {card['data_licence'] or _NOT_STATED}"
    if is_language_model(manifest):
        licence = card["model_licence"] or _NOT_STATED
        data = f"- base model ({manifest['model']['name']}): {licence}\n{data}"
    elif is_encoder(manifest):
        name = manifest["encoder"]["name"]
        licence = card["model_licence"] or "see its own card"
        data = f"- base model ({name}): {licence}\n{data}"
    elif manifest["classifier"]["embedding"]:
        name = manifest["classifier"]["embedding"]["name"]
        data = f"- embedding model ({name}): see its own card\n{data}"
    return _section("Licences", data)
