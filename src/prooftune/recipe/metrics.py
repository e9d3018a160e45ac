"""The metrics by which a study may judge its variants and select checkpoints."""

from __future__ import annotations

from prooftune.recipe.data import Task

_CLASSIFICATION = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "weighted_f1": "weighted F1",
    "mcc": "Matthews correlation",
    "quadratic_kappa": "quadratic weighted kappa",
    "mae": "mean absolute error",
    "mae_score": "1 − MAE / range",
    "mean_cost": "mean cost",
    "cost_score": "1 − mean cost / highest cost",
}
_MULTILABEL = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "samples_f1": "example-based F1",
    "subset_accuracy": "subset accuracy",
}
_ANSWERS = {
    "f1": "F1",
    "exact": "exact match",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeL_or_none": "ROUGE-L (unanswerable questions included)",
    "meteor": "METEOR",
}
PRIMARY_METRICS: dict[Task, dict[str, str]] = {
    "classification": _CLASSIFICATION,
    "multilabel": _MULTILABEL,
    "extractive-qa": _ANSWERS,
    "free-text-qa": _ANSWERS,
}
"""Key and title of the metrics that ``evaluation.primary`` may name, by task: those that grow with
quality and that every variant has. ``mae`` and ``mean_cost``, which do not, are judged as
``mae_score`` and ``cost_score``."""

QUALITY_METRICS: dict[Task, tuple[str, str]] = {
    "classification": ("accuracy", "macro_f1"),
    "multilabel": ("micro_f1", "macro_f1"),
    "extractive-qa": ("f1", "exact_match"),
    "free-text-qa": ("f1", "exact_match"),
}
"""Metrics on validation rows during training, the primary one first: the values of
``training.metric_for_best_model`` besides ``loss``."""

REWARD_METRICS = ("f1", "exact", "rouge1", "rouge2", "rougeL")
"""Metrics of single answers that ``objective: reward`` can train on."""

ORDINAL_METRICS = ("quadratic_kappa", "mae", "mae_score")
"""Those that need ordinal labels."""
COST_METRICS = ("mean_cost", "cost_score")
"""Those that need costs of errors."""
