"""How the report displays each task: its metrics, number formats, table columns and wording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prooftune.evaluation.score_types import (
    Figure,
    Measurements,
    Setup,
    VariantMeasurements,
    defined,
)
from prooftune.recipe.data import LABEL_TASKS
from prooftune.recipe.metrics import COST_METRICS, ORDINAL_METRICS
from prooftune.report.format import DECIMAL, ONE_DECIMAL, PERCENT, NumberFormat

CONTROL = "control"
"""Role of a variant that only bounds the possible gain; it is not a competitor."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's full name, its short column heading, and its number format."""

    title: str
    heading: str
    form: NumberFormat = PERCENT


@dataclass(frozen=True, slots=True)
class TaskDisplay:
    """Wording and table columns of one task.

    Attributes:
        noun: the unit of the test set, in the plural.
        metrics: all metrics by key, in display order.
        variant_metrics: keys shown after the primary metric in the table of variants.
        difference_metrics: the same in the table of paired differences.
        terminal_metrics: the same in the terminal.
        count_columns: (key, heading) of output counts in the table of variants.
        output_columns: (key, heading) of output counts that have a table of their own.
        table_note: explains the columns of the table of variants.
        correct_phrase: what a variant that is right does with an example.
        significance_test: the test behind the p-values.
        invalid_phrase: what happens to invalid outputs, to follow their number.
        balance_heading: title and first column of the table of label counts.
        answer_names: name of the target, and of an invalid answer.
    """

    noun: str
    metrics: Mapping[str, Metric]
    variant_metrics: tuple[str, ...]
    difference_metrics: tuple[str, ...]
    terminal_metrics: tuple[str, ...]
    count_columns: tuple[tuple[str, str], ...]
    output_columns: tuple[tuple[str, str], ...]
    table_note: str
    correct_phrase: str
    significance_test: str
    invalid_phrase: str
    balance_heading: tuple[str, str]
    answer_names: tuple[str, str]


_CLASSIFICATION = TaskDisplay(
    noun="examples",
    metrics={
        "accuracy": Metric("accuracy", "accuracy"),
        "balanced_accuracy": Metric("balanced accuracy", "balanced accuracy"),
        "macro_precision": Metric("macro precision", "macro precision"),
        "macro_recall": Metric("macro recall", "macro recall"),
        "macro_f1": Metric("macro F1", "macro F1"),
        "weighted_precision": Metric("weighted precision", "weighted precision"),
        "weighted_recall": Metric("weighted recall", "weighted recall"),
        "weighted_f1": Metric("weighted F1", "weighted F1"),
        "invalid_rate": Metric("invalid outputs", "invalid"),
        "mcc": Metric("Matthews correlation", "MCC", DECIMAL),
        "quadratic_kappa": Metric("quadratic weighted kappa", "quadratic kappa", DECIMAL),
        "mae": Metric("mean absolute error (MAE)", "MAE", DECIMAL),
        "mae_score": Metric("1 − MAE / range", "1 − MAE / range"),
        "mean_cost": Metric("mean cost of a prediction", "mean cost", DECIMAL),
        "cost_score": Metric("1 − mean cost / highest cost", "1 − mean cost / highest"),
        "log_loss": Metric("log-loss (nats)", "log-loss", DECIMAL),
        "brier": Metric("Brier score (0 to 2)", "Brier", DECIMAL),
        "ece": Metric("calibration error (ECE)", "ECE", DECIMAL),
    },
    variant_metrics=("mean_cost", "quadratic_kappa", "mae", "macro_f1", "mcc", "log_loss", "ece"),
    difference_metrics=("mean_cost", "quadratic_kappa", "macro_f1"),
    terminal_metrics=("mean_cost", "quadratic_kappa", "mae", "macro_f1", "log_loss"),
    count_columns=(("invalid", "invalid"), ("truncated", "truncated")),
    output_columns=(),
    table_note="MCC: Matthews correlation coefficient, 0 for guessing and 1 for no errors. "
    "Log-loss (nats) and expected calibration error (ECE, corrected for its bias) are before "
    "temperature scaling; a dash: the variant gives no probabilities. Invalid: outputs outside the "
    "label set, counted as wrong. Truncated: inputs cut to the length limit.",
    correct_phrase="labels correctly",
    significance_test="exact McNemar test on these",
    invalid_phrase="are outside the label set and count as wrong",
    balance_heading=("Class balance", "label"),
    answer_names=("true label", "no label"),
)

_COST_NOTE = (
    "Mean cost: what a prediction costs on average by the recipe’s costs of errors; lower is "
    "better. Invalid outputs cost as much as the most expensive error of their row. "
)
_ORDINAL_NOTE = (
    "Quadratic kappa: quadratic weighted kappa, 0 for guessing and 1 for no errors; far errors "
    "count more. MAE: mean absolute error in units of the labels, lower is better. "
)

_QA_METRICS = {
    "exact": Metric("exact match (EM)", "EM"),
    "f1": Metric("F1", "F1"),
    "has_answer_exact": Metric("EM, questions with an answer", "EM, with an answer"),
    "has_answer_f1": Metric("F1, questions with an answer", "F1, with an answer"),
    "no_answer_exact": Metric("EM, questions without an answer", "EM, without an answer"),
    "no_answer_f1": Metric("F1, questions without an answer", "F1, without an answer"),
    "rouge1": Metric("ROUGE-1", "ROUGE-1"),
    "rouge2": Metric("ROUGE-2", "ROUGE-2"),
    "rougeL": Metric("ROUGE-L", "ROUGE-L"),
    "rougeL_or_none": Metric("ROUGE-L (unanswerable questions included)", "ROUGE-L, all questions"),
    "meteor": Metric("METEOR", "METEOR"),
    "bertscore_f1": Metric("BERTScore F1", "BERTScore"),
    "bleu": Metric("BLEU (0 to 100)", "BLEU", ONE_DECIMAL),
    "answer_words": Metric("words per answer", "words", ONE_DECIMAL),
}
_METRICS_NOTE = (
    "ROUGE (F-measure), METEOR, BERTScore and BLEU (corpus-level, 0 to 100) are computed on the "
    "questions that have an answer, against the best-matching reference. “ROUGE-L, all "
    "questions” scores those without an answer 1 if none is given, and 0 otherwise."
)
_OVERLAP_NOTE = (
    "F1: word overlap of an answer with its best-matching reference, normalised as in SQuAD. EM: "
    "exact match."
)
_OUTPUT_COUNTS = (
    ("abstained", "no answer given"),
    ("windowed", "read in windows"),
    ("truncated", "truncated"),
)

_EXTRACTIVE = TaskDisplay(
    noun="questions",
    metrics=_QA_METRICS,
    variant_metrics=("exact", "rougeL", "meteor", "bertscore_f1", "bleu"),
    difference_metrics=("exact", "has_answer_f1"),
    terminal_metrics=("exact", "rougeL", "bleu"),
    count_columns=(),
    output_columns=(("invalid", "not in the text"), *_OUTPUT_COUNTS),
    table_note=f"{_OVERLAP_NOTE} On a question without an answer, only an empty prediction scores. "
    f"{_METRICS_NOTE}",
    correct_phrase="answers with an F1 of at least 50%",
    significance_test="sign-flip permutation test of the mean difference in F1",
    invalid_phrase="do not occur in their context; they are scored as they are",
    balance_heading=("Questions with and without an answer", "questions"),
    answer_names=("accepted", "not in the text"),
)

_FREE_TEXT = TaskDisplay(
    noun="questions",
    metrics=_QA_METRICS,
    variant_metrics=("rougeL", "f1", "meteor", "bertscore_f1", "bleu", "answer_words"),
    difference_metrics=("f1", "bertscore_f1"),
    terminal_metrics=("f1", "bleu", "bertscore_f1"),
    count_columns=(),
    output_columns=_OUTPUT_COUNTS,
    table_note=f"{_METRICS_NOTE} {_OVERLAP_NOTE} Words: the mean length of an answer.",
    correct_phrase="answers with a ROUGE-L of at least 50%",
    significance_test="sign-flip permutation test of the mean difference in ROUGE-L",
    invalid_phrase="are invalid; they are scored as they are",
    balance_heading=("Questions with and without an answer", "questions"),
    answer_names=("accepted", "invalid"),
)

_MULTILABEL = TaskDisplay(
    noun="examples",
    metrics={
        "micro_f1": Metric("micro F1", "micro F1"),
        "micro_precision": Metric("micro precision", "micro precision"),
        "micro_recall": Metric("micro recall", "micro recall"),
        "macro_f1": Metric("macro F1", "macro F1"),
        "macro_precision": Metric("macro precision", "macro precision"),
        "macro_recall": Metric("macro recall", "macro recall"),
        "samples_f1": Metric("example-based F1", "F1 per example"),
        "subset_accuracy": Metric("subset accuracy", "subset accuracy"),
        "hamming_loss": Metric("Hamming loss", "Hamming loss"),
        "labels_per_text": Metric("labels given per text", "labels per text", DECIMAL),
    },
    variant_metrics=("macro_f1", "samples_f1", "subset_accuracy", "hamming_loss"),
    difference_metrics=("macro_f1", "samples_f1", "subset_accuracy"),
    terminal_metrics=("macro_f1", "samples_f1", "subset_accuracy", "hamming_loss"),
    count_columns=(("truncated", "truncated"),),
    output_columns=(),
    table_note="Micro F1 counts all pairs of text and label together; macro F1 is the mean over "
    "labels, F1 per example the mean over texts. Subset accuracy: texts with exactly the right "
    "labels. Hamming loss: share of wrong decisions among all texts and labels, lower is better. "
    "Labels are given from a probability that each variant's validation rows decide. Truncated: "
    "inputs cut to the length limit.",
    correct_phrase="gives exactly the right labels",
    significance_test="permutation test",
    invalid_phrase="are outside the label set and count as wrong",
    balance_heading=("Labels", "label"),
    answer_names=("true labels", "no label"),
)

TASKS = {
    "classification": _CLASSIFICATION,
    "multilabel": _MULTILABEL,
    "extractive-qa": _EXTRACTIVE,
    "free-text-qa": _FREE_TEXT,
}


def display_for(scores: Setup) -> TaskDisplay:
    """The display settings of the task that was scored, with the primary metric and its test."""
    display, key = TASKS[scores["task"]], scores["primary"]
    if key in ORDINAL_METRICS:
        display = replace(display, table_note=_ORDINAL_NOTE + display.table_note)
    if key in COST_METRICS:
        display = replace(display, table_note=_COST_NOTE + display.table_note)
    # The unit whose outputs the test swaps.
    by = "group" if scores["groups"] else "example"
    if key == "accuracy":
        test = "exact McNemar test on these" if by == "example" else _SWAPS.format("accuracy", by)
        return replace(display, significance_test=test)
    title = display.metrics[key].title
    if scores["task"] in LABEL_TASKS:
        return replace(display, significance_test=_SWAPS.format(title, by))
    return replace(
        display,
        correct_phrase=f"answers with {title} of at least 50%",
        significance_test=_SWAPS.format(title, by.replace("example", "question")),
    )


_SWAPS = "permutation test of the difference in {0}, swapping the two variants’ outputs {1} by {1}"


def available_metrics(scores: Measurements, keys: Sequence[str] | None = None) -> dict[str, Metric]:
    """Metrics that at least one variant has a value for.

    Args:
        scores: as in ``scores.json``.
        keys: metrics to consider after the primary one. Default: all metrics of the task.
    """
    metrics = display_for(scores).metrics
    selected = list(metrics) if keys is None else [scores["primary"], *keys]
    by_variant = [v["metrics"] for v in scores["variants"].values()]
    return metrics_with_values(metrics, by_variant, selected)


def metrics_with_values(
    metrics: Mapping[str, Metric],
    figures: Sequence[Mapping[str, Figure]],
    keys: Sequence[str],
) -> dict[str, Metric]:
    """The named metrics that at least one of several sets of figures has a value for."""
    return {
        key: metrics[key]
        # The primary metric may be in both lists.
        for key in dict.fromkeys(keys)
        if any(key in f and f[key]["value"] is not None for f in figures)
    }


def compared_metrics(scores: Measurements, keys: Sequence[str] | None = None) -> dict[str, Metric]:
    """The metrics of `available_metrics` that every comparison has a difference for."""
    return {
        key: metric
        for key, metric in available_metrics(scores, keys).items()
        if all(key in c for c in scores["comparisons"])
    }


def is_control(variant: VariantMeasurements) -> bool:
    """Whether a variant is a control."""
    return variant.get("role") == CONTROL


def ranked_variants(scores: Measurements) -> list[tuple[str, VariantMeasurements]]:
    """Variants with their names, best first, controls last."""
    primary = scores["primary"]
    return sorted(
        scores["variants"].items(),
        key=lambda item: (is_control(item[1]), -defined(item[1]["metrics"][primary])["value"]),
    )
