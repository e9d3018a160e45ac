"""What the report calls a variant: its kind, its context and its base model."""

from __future__ import annotations

from prooftune.evaluation.score_types import (
    VariantMeasurements,
)
from prooftune.report import task_display

KIND_NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "embedding": "sentence embeddings + logistic regression",
    "encoder": "fine-tuned encoder",
    "endpoint": "model behind an endpoint",
    "zero-shot": "zero-shot prompt",
    "few-shot": "few-shot prompt",
    "prompted": "best of several prompts",
    "tuned": "fine-tuned",
}


CONTEXTS = {
    "retrieved": "with retrieved passages",
    "gold": "control: with the gold passages",
    "random": "control: with random passages",
    "none": "without context",
}


def describe_variant(
    variant: VariantMeasurements, description: str | None, model: str | None = None
) -> str:
    """A variant's own description, or that of its kind, the context that it is given, and the base
    model where variants differ in it."""
    text, context = (
        description or KIND_NAMES.get(variant["kind"], variant["kind"]),
        CONTEXTS.get(variant.get("context") or ""),
    )
    parts = [context, text] if task_display.is_control(variant) else [text, context]
    if trainings := variant.get("trainings"):
        parts.append(f"mean of {trainings['count']} trainings")
    return "; ".join(filter(None, [*parts, model]))
