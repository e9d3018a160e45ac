"""What the report of each task shows: which metrics in which table, in what form and in what words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.report.format import DECIMAL, ONE_DECIMAL, PERCENT, NumberFormat

CONTROL = "control"
"""Role of a variant that says how much there is to gain; it competes with nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name in full and over a narrow column, and the form of its figures."""

    title: str
    heading: str
    form: NumberFormat = PERCENT


@dataclass(frozen=True, slots=True)
class TaskDisplay:
    """The words and tables of one task.

    Attributes:
        noun: what a test set is made of.
        metrics: all metrics by key, in order.
        variants, differences, brief: keys of those that follow the primary metric in the table of
            variants, in that of paired differences, and in the terminal.
        counts: (key, heading) of counts of outputs in the table of variants.
        outputs: (key, heading) of counts that have a table of their own.
        hint: explains the table of variants.
        right: what a variant that is right does with an example.
        test: what the p-values are of.
        invalid: what becomes of invalid outputs, for a sentence on how many there are.
        strata: title of the balance of the data.
        target: what an example was to be answered with, and how an invalid answer is called beside
            it.
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
        "log_loss": Metric("log-loss (nats)", "log-loss", DECIMAL),
        "brier": Metric("Brier score (0 to 2)", "Brier", DECIMAL),
        "ece": Metric("calibration error (ECE)", "ECE", DECIMAL),
    },
    variant_metrics=("macro_f1", "mcc", "log_loss", "ece"),
    difference_metrics=("macro_f1",),
    terminal_metrics=("macro_f1", "log_loss"),
    count_columns=(("invalid", "invalid"), ("truncated", "shortened")),
    output_columns=(),
    table_note="MCC: Matthews correlation, 0 for guessing and 1 for no mistakes. Log-loss in nats and "
    "expected calibration error (ECE) "
    "before temperature scaling; a dash where a variant gives no probabilities. Invalid: outputs "
    "that are no label of the "
    "set, counted as wrong. Shortened: inputs cut to fit the length limit.",
    correct_phrase="labels correctly",
    significance_test="exact McNemar test on these",
    invalid_phrase="were no label of the set; they count as wrong",
    balance_heading=("Class balance", "label"),
    answer_names=("true label", "no label"),
)

_ANSWERS = {
    "exact": Metric("exact match (EM)", "EM"),
    "f1": Metric("F1", "F1"),
    "has_answer_exact": Metric("EM, questions with an answer", "EM, with an answer"),
    "has_answer_f1": Metric("F1, questions with an answer", "F1, with an answer"),
    "no_answer_exact": Metric("EM, questions without an answer", "EM, without an answer"),
    "no_answer_f1": Metric("F1, questions without an answer", "F1, without an answer"),
    "rouge1": Metric("ROUGE-1", "ROUGE-1"),
    "rouge2": Metric("ROUGE-2", "ROUGE-2"),
    "rougeL": Metric("ROUGE-L", "ROUGE-L"),
    "meteor": Metric("METEOR", "METEOR"),
    "bertscore_f1": Metric("BERTScore F1", "BERTScore"),
    "bleu": Metric("BLEU (0 to 100)", "BLEU", ONE_DECIMAL),
    "answer_words": Metric("words per answer", "words", ONE_DECIMAL),
}
_OF_ANSWERS = (
    "ROUGE (F-measure), METEOR, BERTScore and BLEU (0 to 100, of all answers together and not a "
    "mean) are over the "
    "questions that have an answer, each for the best of its references."
)
_OF_WORDS = (
    "F1: the words that an answer shares with the best of its references, normalised by SQuAD’s "
    "rules; EM (exact match): "
    "nothing else is in it."
)
_COUNTS = (
    ("abstained", "said “no answer”"),
    ("windowed", "read in windows"),
    ("truncated", "shortened"),
)

_EXTRACTIVE = TaskDisplay(
    noun="questions",
    metrics=_ANSWERS,
    variant_metrics=("exact", "rougeL", "meteor", "bertscore_f1", "bleu"),
    difference_metrics=("exact", "has_answer_f1"),
    terminal_metrics=("exact", "rougeL", "bleu"),
    count_columns=(),
    output_columns=(("invalid", "not in the text"), *_COUNTS),
    table_note=f"{_OF_WORDS} Where a question has no answer, only an empty one scores. {_OF_ANSWERS}",
    correct_phrase="answers with an F1 of at least 50%",
    significance_test="sign-flip permutation test of the mean difference in F1",
    invalid_phrase="were no part of their text; they are scored as they stand",
    balance_heading=("Questions with and without an answer", "questions"),
    answer_names=("accepted", "not in the text"),
)

_FREE_TEXT = TaskDisplay(
    noun="questions",
    metrics=_ANSWERS,
    variant_metrics=("f1", "meteor", "bertscore_f1", "bleu", "answer_words"),
    difference_metrics=("f1", "bertscore_f1"),
    terminal_metrics=("f1", "bleu", "bertscore_f1"),
    count_columns=(),
    output_columns=_COUNTS,
    table_note=f"{_OF_ANSWERS} {_OF_WORDS} Words: the mean length of an answer.",
    correct_phrase="answers with a ROUGE-L of at least 50%",
    significance_test="sign-flip permutation test of the mean difference in ROUGE-L",
    invalid_phrase="were invalid; they are scored as they stand",
    balance_heading=("Questions with and without an answer", "questions"),
    answer_names=("accepted", "invalid"),
)

TASKS = {
    "classification": _CLASSIFICATION,
    "extractive-qa": _EXTRACTIVE,
    "free-text-qa": _FREE_TEXT,
}


def display_for(scores: Mapping[str, Any]) -> TaskDisplay:
    """The description of the task that was scored."""
    return TASKS[scores.get("task", "classification")]


def primary_metric(scores: Mapping[str, Any]) -> str:
    """Key of the metric by which variants are judged."""
    return str(scores.get("primary", "accuracy"))


def available_metrics(
    scores: Mapping[str, Any], keys: Sequence[str] | None = None
) -> dict[str, Metric]:
    """Those metrics that some variant has a figure of: all, or the primary one and then those of
    some keys."""
    every = display_for(scores).metrics
    wanted = list(every) if keys is None else list(dict.fromkeys([primary_metric(scores), *keys]))
    return {
        key: every[key]
        for key in wanted
        if any(
            (v["metrics"].get(key) or {}).get("value") is not None
            for v in scores["variants"].values()
        )
    }


def compared_metrics(
    scores: Mapping[str, Any], keys: Sequence[str] | None = None
) -> dict[str, Metric]:
    """The same, of those in which pairs of variants were compared."""
    return {
        key: metric
        for key, metric in available_metrics(scores, keys).items()
        if all(key in c for c in scores["comparisons"])
    }


def is_control(variant: Mapping[str, Any]) -> bool:
    """Whether a variant is there only to be learned from."""
    return variant.get("role") == CONTROL


def ranked_variants(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Variants by name, the best first; controls after all others."""
    key = primary_metric(scores)
    return sorted(
        scores["variants"].items(),
        key=lambda item: (is_control(item[1]), -item[1]["metrics"][key]["value"]),
    )
