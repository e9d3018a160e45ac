"""Bundles of a tiny random model, written by `bundle.save_bundle`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prooftune import recipe
from prooftune.bundle.language_model import LanguageModelClassifier
from prooftune.bundle.load import load
from prooftune.bundle.save import save_bundle
from prooftune.evaluation.score_types import Scores
from prooftune.models import adapters, loading
from prooftune.recipe.data import LABEL_TASKS
from prooftune.tasks.prompt_encoding import Rendering
from prooftune.tasks.templates import default_template
from prooftune.types import Example, Study, VariantResult
from prooftune.utils.files import read_json, write_json

LABELS = ["World", "Sports", "Sci/Tech"]


def make_bundle(
    folder: Path,
    model: Path,
    text: Any = "text",
    rows: Sequence[Example] = (),
    chat: bool = False,
    template: str | None = None,
    variant: dict[str, Any] | None = None,
    size: float = 0.3,
    **options: Any,
) -> Path:
    """A bundle of an untrained but non-zero adapter on `model`.

    Args:
        folder: where to work.
        model: the base model's folder.
        text: the recipe's text columns.
        rows: validation rows, from which the golden set is drawn.
        chat: whether the model's chat template is used.
        template: the prompt; the task's own if None.
        variant: options of the tuned variant.
        size: of the adapter's weights.
        options: other sections of the recipe.
    """
    task = options.get("task", "classification")
    source = (
        {"train": "a.csv", "text": text, "label": "label"}
        if task in LABEL_TASKS
        else {"train": "a.jsonl"}
    )
    chosen = recipe.parse(
        {
            "name": "study",
            "data": source,
            "model": {"name": str(model), "dtype": "float32"},
            "prompt": {"max_length": 64},
            "variants": {"tuned": variant},
            **options,
        }
    )
    place, tuned = folder / "variant", chosen.variants["tuned"]
    labels = LABELS if task in LABEL_TASKS else []
    _train(model, chosen, tuned, labels, size, place / "trained")
    fields = (
        (list(text) if isinstance(text, dict | list) else [text])
        if labels
        else ["context", "question"]
    )
    rendering = Rendering(
        template or default_template(task, fields, "unanswerable"),
        tuple(labels),
        chat=chat,
        max_length=chosen.prompt.max_length,
        answer_tokens=0 if labels else 12,
    )
    write_json(place / "rendering.json", rendering.to_json())
    study = Study([], list(rows), [Example("1", dict.fromkeys(fields, "goal"), "Sports")], labels)
    result = VariantResult(
        "tuned", "tuned", [], [], {"objective": tuned.objective, "method": tuned.method}, place
    )
    save_bundle(
        chosen,
        study,
        result,
        empty_scores(chosen, temperature=2.0 if task == "classification" else None),
        folder / "bundle",
    )
    return folder / "bundle"


def empty_scores(chosen: recipe.Recipe, temperature: float | None) -> Scores:
    """Scores of a study that measured nothing."""
    primary, title = {
        "classification": ("accuracy", "accuracy"),
        "multilabel": ("micro_f1", "micro F1"),
    }.get(chosen.task, ("f1", "F1"))
    return {
        "task": chosen.task,
        "primary": primary,
        "primary_title": title,
        "worthwhile": None,
        "n": 0,
        "groups": None,
        "validation_n": 0,
        "seed": 0,
        "resamples": 0,
        "confidence": 0.95,
        "simultaneous_confidence": 0.95,
        "labels": [],
        "support": {},
        "notes": [],
        "variants": {
            "tuned": {
                "kind": "tuned",
                "n": 0,
                "metrics": {},
                "temperature": temperature,
                "invalid": 0,
                "truncated": 0,
                "truncated_tokens": 0,
                "prompt_tokens": 0,
            }
        },
        "comparisons": [],
        "verdict": {
            "outcome": "alone",
            "headline": "It helped.",
            "sentence": "It helped.",
            "winner": "tuned",
            "best_tuned": "tuned",
            "baseline": None,
            "beats": None,
            "against": [],
            "better": [],
            "n": 0,
        },
        "changed": None,
    }


def _train(
    model: Path,
    chosen: recipe.Recipe,
    variant: recipe.Variant,
    labels: list[str],
    size: float,
    place: Path,
) -> None:
    """Weights that differ from the base's; nothing is learned."""
    torch.manual_seed(0)
    head = labels if variant.objective == "head" else None
    loaded = loading.load_model(model, chosen.model, quantization=chosen.quantization, labels=head)
    tuned = adapters.make_trainable(loaded, variant, {"r": 4, **chosen.lora})
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=size)
        elif "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapters.save_tuned(tuned, place, variant.method, torch.float32)


def load_classifier(folder: Path, shared: dict[str, Any] | None = None) -> LanguageModelClassifier:
    """A loaded bundle that classifies with a language model."""
    loaded = load(folder, shared)
    assert isinstance(loaded, LanguageModelClassifier)
    return loaded


def changed(bundle: Path, folder: Path, **manifest: Any) -> Path:
    """A copy of the bundle with other facts."""
    shutil.copytree(bundle, folder)
    write_json(folder / "bundle.json", {**read_json(folder / "bundle.json"), **manifest})
    return folder
