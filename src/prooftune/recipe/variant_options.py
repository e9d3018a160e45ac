"""Which options of a variant apply to which kinds, tasks and objectives."""

from __future__ import annotations

CONTINUED_OBJECTIVES = ("reward", "preference")
"""Objectives that train the weights of another variant further."""

SAMPLING_OPTIONS = ("rewards", "samples")
"""Options of ``objective: reward`` for answers."""

INHERITED_OPTIONS = (
    "model",
    "quantization",
    "prompt",
    "context",
    "method",
    "lora",
    "gold_share",
)
"""Options of the variant in ``from``, which belong to its weights."""

TRAINED_KINDS = ("tuned", "encoder")
CHEAP_KINDS = ("tfidf", "embedding")
LEARNING_KINDS = (*CHEAP_KINDS, *TRAINED_KINDS)
"""Kinds of variants that learn from labels, so that more rows may help them."""

MULTILABEL_KINDS = ("majority", *CHEAP_KINDS, *TRAINED_KINDS)
"""Kinds of variants that can give a text several labels."""

ANSWERING_KINDS = ("majority", "endpoint", "zero-shot", "few-shot", "prompted", "tuned")
"""Kinds of variants that can answer questions."""

QA_OPTIONS = ("context", "gold_share")
"""Options that apply only to question answering."""

LANGUAGE_OPTIONS = ("languages", "without", "leave_one_language_out")
"""Options of variants that are trained, or that show training examples."""

WEIGHTED_KINDS = ("tfidf", "embedding", "encoder", "tuned")
"""Kinds of variants whose training rows can be weighted by label."""

PROMPTING_OPTIONS = {
    "shots": "few-shot",
    "candidates": "prompted",
    "validation_rows": "prompted",
}
"""Option of kind: endpoint -> the ``prompting`` that it belongs to."""

TRAINING_OPTIONS = (
    "objective",
    "start_from",
    "beta",
    "pairs",
    "rewards",
    "samples",
    "method",
    "seeds",
    "lora",
    "training",
    "gold_share",
    "class_weights",
    "pretrain",
)
"""Options that apply only to variants that are trained themselves."""

MODEL_OPTIONS = ("model", "quantization")
"""Options of every variant with a language model."""

OPTIONS_BY_KIND: dict[str, set[str]] = {
    "majority": {*LANGUAGE_OPTIONS},
    "tfidf": {"class_weights", *LANGUAGE_OPTIONS},
    "embedding": {"model", "prompt_name", "class_weights", *LANGUAGE_OPTIONS},
    "encoder": {
        "model",
        "method",
        "seeds",
        "lora",
        "training",
        "class_weights",
        *LANGUAGE_OPTIONS,
    },
    "endpoint": {
        "endpoint",
        "prompting",
        "prompt",
        "context",
        "shots",
        "candidates",
        "validation_rows",
    },
    "zero-shot": {*MODEL_OPTIONS, "prompt", "context"},
    "few-shot": {*MODEL_OPTIONS, "prompt", "context", "shots", *LANGUAGE_OPTIONS},
    "prompted": {*MODEL_OPTIONS, "prompt", "context", "candidates", "validation_rows", "adapter"},
    "tuned": {
        *MODEL_OPTIONS,
        "prompt",
        "context",
        "adapter",
        *TRAINING_OPTIONS,
        *LANGUAGE_OPTIONS,
    },
}
"""Kind -> options that apply to it."""
