"""What the report of each task shows: which metrics in which table, in what form and in what words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prooftune.report.format import NUMBER, SHARE, TENTHS, Form

CONTROL = "control"
"""Role of a variant that says how much there is to gain; it competes with nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name in full and over a narrow column, and the form of its figures."""

    title: str
    heading: str
    form: Form = SHARE


@dataclass(frozen=True, slots=True)
class Shown:
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
    variants: tuple[str, ...]
    differences: tuple[str, ...]
    brief: tuple[str, ...]
    counts: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    hint: str
    right: str
    test: str
    invalid: str
    strata: tuple[str, str]
    target: tuple[str, str]


_CLASSIFICATION = Shown(
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
        "mcc": Metric("Matthews correlation", "MCC", NUMBER),
        "log_loss": Metric("log-loss (nats)", "log-loss", NUMBER),
        "brier": Metric("Brier score (0 to 2)", "Brier", NUMBER),
        "ece": Metric("calibration error (ECE)", "ECE", NUMBER),
    },
    variants=("macro_f1", "mcc", "log_loss", "ece"),
    differences=("macro_f1",),
    brief=("macro_f1", "log_loss"),
    counts=(("invalid", "invalid"), ("truncated", "shortened")),
    outputs=(),
    hint="MCC: Matthews correlation, 0 for guessing and 1 for no mistakes. Log-loss in nats and "
    "expected calibration error (ECE) "
    "before temperature scaling; a dash where a variant gives no probabilities. Invalid: outputs "
    "that are no label of the "
    "set, counted as wrong. Shortened: inputs cut to fit the length limit.",
    right="labels correctly",
    test="exact McNemar test on these",
    invalid="were no label of the set; they count as wrong",
    strata=("Class balance", "label"),
    target=("true label", "no label"),
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
    "bleu": Metric("BLEU (0 to 100)", "BLEU", TENTHS),
    "answer_words": Metric("words per answer", "words", TENTHS),
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

_EXTRACTIVE = Shown(
    noun="questions",
    metrics=_ANSWERS,
    variants=("exact", "rougeL", "meteor", "bertscore_f1", "bleu"),
    differences=("exact", "has_answer_f1"),
    brief=("exact", "rougeL", "bleu"),
    counts=(),
    outputs=(("invalid", "not in the text"), *_COUNTS),
    hint=f"{_OF_WORDS} Where a question has no answer, only an empty one scores. {_OF_ANSWERS}",
    right="answers with an F1 of at least 50%",
    test="sign-flip permutation test of the mean difference in F1",
    invalid="were no part of their text; they are scored as they stand",
    strata=("Questions with and without an answer", "questions"),
    target=("accepted", "not in the text"),
)

_FREE_TEXT = Shown(
    noun="questions",
    metrics=_ANSWERS,
    variants=("f1", "meteor", "bertscore_f1", "bleu", "answer_words"),
    differences=("f1", "bertscore_f1"),
    brief=("f1", "bleu", "bertscore_f1"),
    counts=(),
    outputs=_COUNTS,
    hint=f"{_OF_ANSWERS} {_OF_WORDS} Words: the mean length of an answer.",
    right="answers with a ROUGE-L of at least 50%",
    test="sign-flip permutation test of the mean difference in ROUGE-L",
    invalid="were invalid; they are scored as they stand",
    strata=("Questions with and without an answer", "questions"),
    target=("accepted", "invalid"),
)

TASKS = {
    "classification": _CLASSIFICATION,
    "extractive-qa": _EXTRACTIVE,
    "free-text-qa": _FREE_TEXT,
}


def of(scores: Mapping[str, Any]) -> Shown:
    """The description of the task that was scored."""
    return TASKS[scores.get("task", "classification")]


def primary(scores: Mapping[str, Any]) -> str:
    """Key of the metric by which variants are judged."""
    return str(scores.get("primary", "accuracy"))


def measured(scores: Mapping[str, Any], keys: Sequence[str] | None = None) -> dict[str, Metric]:
    """Those metrics that some variant has a figure of: all, or the primary one and then those of
    some keys."""
    every = of(scores).metrics
    wanted = list(every) if keys is None else list(dict.fromkeys([primary(scores), *keys]))
    return {
        key: every[key]
        for key in wanted
        if any(
            (v["metrics"].get(key) or {}).get("value") is not None
            for v in scores["variants"].values()
        )
    }


def compared(scores: Mapping[str, Any], keys: Sequence[str] | None = None) -> dict[str, Metric]:
    """The same, of those in which pairs of variants were compared."""
    return {
        key: metric
        for key, metric in measured(scores, keys).items()
        if all(key in c for c in scores["comparisons"])
    }


def is_control(variant: Mapping[str, Any]) -> bool:
    """Whether a variant is there only to be learned from."""
    return variant.get("role") == CONTROL


def ranked(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Variants by name, the best first; controls after all others."""
    key = primary(scores)
    return sorted(
        scores["variants"].items(),
        key=lambda item: (is_control(item[1]), -item[1]["metrics"][key]["value"]),
    )
