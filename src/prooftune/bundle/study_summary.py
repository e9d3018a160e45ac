"""The study behind a bundle, summarized for `bundle.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from prooftune.bundle.manifest import (
    CardSection,
    RepeatedTraining,
    StudySummary,
    TextLengths,
)
from prooftune.evaluation.score_types import Estimate, Scores, Trainings, defined
from prooftune.models.environment import describe_environment, device_and_dtype
from prooftune.models.loading import ORIGINS
from prooftune.recipe import Recipe, Source, Task, Variant
from prooftune.run_folder import trained_folder
from prooftune.types import Example, Study, VariantResult
from prooftune.utils import package_files
from prooftune.utils.files import read_json
from prooftune.variant_details import describe_pretraining


def study_summary(
    recipe: Recipe, study: Study, result: VariantResult, scores: Scores, audit: list[str]
) -> StudySummary:
    """Summarize the study for ``bundle.json``, so that a card can be rendered without the run.

    Args:
        recipe: the study's recipe.
        study: its data.
        result: the bundled variant.
        scores: content of ``scores.json``.
        audit: findings of the data audit, one sentence each.
    """
    variant_scores = scores["variants"][result.name]
    variant = recipe.variants[result.name]
    training = result.details.get("training", {})
    pretraining = result.details.get("pretraining")
    if result.adapter:  # it has the weights of another variant
        record = read_json(trained_folder(result) / "training.json")
        training, pretraining = record["training"], record.get("pretraining")
    trainings = variant_scores.get("trainings")
    # The bundle is one training, and its figures are those of this one.
    metrics = trainings["metrics"] if trainings else variant_scores["metrics"]
    sources: dict[str, Source | None] = {
        split: getattr(recipe.data, split) for split in ("train", "validation", "test")
    }
    summary: StudySummary = {
        "name": recipe.name,
        "verdict": scores["verdict"]["sentence"],
        "n": scores["n"],
        "confidence": scores["confidence"],
        "primary": scores["primary"],
        "metrics": {name: defined(m) for name, m in metrics.items() if m["low"] is not None},
        "variants": {
            name: defined(scores_of_variant["metrics"][scores["primary"]])
            for name, scores_of_variant in scores["variants"].items()
            if scores["primary"] in scores_of_variant["metrics"]
        },
        "sources": {split: _public_source(source) for split, source in sources.items() if source},
        "rows": {split: len(examples) for split, examples in study.splits().items()},
        "label_counts": _label_counts(study, recipe.task),
        "text_lengths": text_lengths(study.test),
        "notes": list(study.notes),
        "audit": audit,
        "training": {
            "method": result.details.get("method", variant.kind),
            **({"objective": result.details["objective"]} if training else {}),
            **({} if training else {"description": result.details.get("description")}),
            **(recipe.lora if training else {}),
            **training.get("arguments", {}),
            **({"pretraining": describe_pretraining(pretraining)} if pretraining else {}),
            "epochs_trained": training.get("epochs"),
            "seed": recipe.training_seed(result.name, result.training),
        },
        "parameters": {
            "trainable": training.get("trainable_parameters"),
            "total": training.get("total_parameters"),
        },
        "environment": variant_environment(recipe, variant),
        "card": _card_section(recipe),
    }
    calibration = variant_scores.get("calibration")
    # Without validation rows there is no temperature, and so no log-loss after it.
    scaled = calibration["log_loss"].get("after") if calibration else None
    if scaled and scaled["low"] is not None:
        summary["scaled_log_loss"] = defined(scaled)
    if trainings:
        mean = defined(variant_scores["metrics"][scores["primary"]])
        summary["trainings"] = _repeated_training(trainings, mean)
    return summary


def variant_environment(recipe: Recipe, variant: Variant) -> dict[str, Any]:
    """Versions of the libraries that the variant uses, and how its model is computed.

    Args:
        recipe: for the variant (`Recipe.for_variant`).
        variant: of any kind. Only a language model is looked up: the engine's attention and
            compiled kernels concern no other model.
    """
    # The card has the model and its digest elsewhere.
    left_out = ["model", "model_sha256"]
    if variant.uses_language_model:
        facts = describe_environment([recipe])
    else:
        facts = describe_environment([])
        if variant.kind == "encoder":
            facts |= device_and_dtype(recipe.model.dtype)
        elif variant.kind == "embedding":
            facts |= device_and_dtype()
        else:
            left_out += ["torch", "transformers", "peft"]
    return {name: value for name, value in facts.items() if name not in left_out}


def _repeated_training(trainings: Trainings, mean: Estimate) -> RepeatedTraining:
    """Of several trainings, which one the bundle is, and the mean of all."""
    return {
        "count": trainings["count"],
        "number": trainings["best"],
        "mean": {"value": mean["value"], "low": mean["low"], "high": mean["high"]},
        "sd": mean.get("sd") or 0.0,
    }


def _label_counts(study: Study, task: Task) -> dict[str, dict[str, int]]:
    """Label counts of the training and test rows, with which new data can be compared."""
    if not study.labels:
        return {}
    counts = {}
    for split, examples in (("train", study.train), ("test", study.test)):
        targets = Counter(
            label
            for example in examples
            for label in (example.targets if task == "multilabel" else (example.target,))
        )
        counts[split] = {label: targets[label] for label in study.labels}
    return counts


def text_lengths(examples: Sequence[Example]) -> TextLengths:
    """Lengths of the texts by tenths, with which new data can be compared."""
    lengths = np.array([sum(map(len, example.inputs.values())) for example in examples])
    # inverted_cdf takes lengths that occur, so that the tenths have whole numbers as edges.
    edges = np.unique(np.quantile(lengths, np.arange(1, 10) / 10, method="inverted_cdf"))
    # side="left": a length that equals an edge belongs to the bin that ends there.
    bins = np.searchsorted(edges, lengths, side="left")
    return {
        "median": float(np.median(lengths)),
        "edges": [float(edge) for edge in edges],
        "counts": np.bincount(bins, minlength=len(edges) + 1).tolist(),
    }


def _card_section(recipe: Recipe) -> CardSection:
    """The recipe's ``card`` section, with origin and licence filled in for models with an alias."""
    card = recipe.card
    base, licence = ORIGINS.get(recipe.model.name.lower(), (None, None))
    return {
        "model_licence": card.model_licence or licence,
        "data_licence": card.data_licence,
        "intended_use": card.intended_use,
        "limits": card.limits,
        "base_model": card.base_model or base,
    }


def _public_source(source: Source) -> str:
    """The files of a split, with their languages where they are given by language.

    File names only: folders of this machine must not be published.
    """
    by_language = source.by_language()
    if by_language:
        return ", ".join(f"{name}: {_public_source(one)}" for name, one in by_language.items())
    return ", ".join(
        path if _is_public(path) else path.replace("\\", "/").rpartition("/")[2]
        for path in source.paths
    )


def _is_public(path: str) -> bool:
    return path.startswith("hub:") or package_files.is_reference(path)
