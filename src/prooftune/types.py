"""The plain records that every part of Prooftune exchanges. Imports nothing of ours but the lists
that they lie in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prooftune.utils.disk_list import DiskBackedList
from prooftune.variant_details import VariantDetails

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
QUESTION, CONTEXT = "question", "context"
"""Input fields of a question-answering example."""
ANSWERABLE, UNANSWERABLE = "with an answer", "without an answer"


@dataclass(frozen=True, slots=True)
class Example:
    """One item of data.

    Attributes:
        id: unique within the study and stable between runs (``file.csv:17`` or the id column's
            value).
        inputs: field name -> text, in the order of the recipe's ``text`` columns.
        target: what is to be said: the label's name, or the answer, empty where a question has
            none; None where it is not known (prediction).
        source: where it came from, for messages: ``file.csv:17``.
        group: value of the group column, kept on one side of a grouped split.
        references: all accepted answers to a question, none where it has no answer; None in
            classification.
        gold: ids of the passages that hold the answer, where they are known.
        passages: ids of the passages that stand in the context, numbered from 1 there.
    """

    id: str
    inputs: dict[str, str]
    target: str | None = None
    source: str = ""
    group: str | None = None
    references: tuple[str, ...] | None = None
    gold: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Half the time of what dataclasses do by themselves: examples are often read from files
        # (`DiskBackedList`).
        return Example, (
            self.id,
            self.inputs,
            self.target,
            self.source,
            self.group,
            self.references,
            self.gold,
            self.passages,
        )

    @property
    def stratum(self) -> str:
        """By what a stratified draw keeps shares: the label, or whether a question has an answer."""
        if self.references is None:
            return self.target or ""
        return ANSWERABLE if self.references else UNANSWERABLE


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one variant said for one example.

    Attributes:
        id: the example's id.
        output: the predicted label, empty when nothing valid came out; or the answer, empty for "no
            answer".
        valid: False when generation gave a text outside the label set, or where the task is
            extractive and `raw` is no part of its context.
        log_probs: natural-log probability of every label, in the study's label order (sums to 1 in
            probability); empty for variants that give no probabilities.
        prompt_tokens: tokens that the model read for this example.
        truncated_tokens: input tokens cut away to fit the limit; 0 when nothing was cut.
        raw: the generated text, for variants that generate: of a question, the best answer that is
            one.
        generated_tokens: tokens that the model wrote, stop token included.
        answer_log_prob: natural-log probability of `raw`; None where nothing was generated.
        no_answer_log_prob: natural-log probability of saying that there is no answer; None where
            that is no option.
        windows: parts in which the context was read; 0 where there is none.
        retrieved: ids of the passages that were shown, best first.
        cited: those of them that the answer names.
        unknown_citations: ids that the answer names but was not shown.
    """

    id: str
    output: str
    valid: bool = True
    log_probs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    truncated_tokens: int = 0
    raw: str = ""
    generated_tokens: int = 0
    answer_log_prob: float | None = None
    no_answer_log_prob: float | None = None
    windows: int = 0
    retrieved: tuple[str, ...] = ()
    cited: tuple[str, ...] = ()
    unknown_citations: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """The data of one study after loading and splitting.

    Attributes:
        train, validation, test: the examples; every id is in exactly one of them. Where they came
            from files they are made anew whenever they are asked for (`DiskBackedList`), so that
            very many take little memory.
        labels: the closed label set, in the order used by every array of the study; empty where
            questions are answered.
        notes: what was done to the data that a reader must know (rows dropped, duplicates removed),
            one sentence each.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    labels: list[str]
    notes: list[str] = field(default_factory=list)

    def splits(self) -> dict[SplitName, Sequence[Example]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def map_examples(self, change: Callable[[Example], Example]) -> Study:
        """The study with every example changed."""
        return replace(
            self,
            train=DiskBackedList(map(change, self.train)),
            validation=DiskBackedList(map(change, self.validation)),
            test=DiskBackedList(map(change, self.test)),
        )

    def strata(self) -> list[str]:
        """The labels; or, for questions, those of "with an answer" and "without an answer" that
        occur."""
        if self.labels:
            return self.labels
        found = {e.stratum for examples in self.splits().values() for e in examples}
        return [stratum for stratum in (ANSWERABLE, UNANSWERABLE) if stratum in found]


@dataclass(frozen=True, slots=True)
class VariantResult:
    """Everything that one variant left in the run folder, as evaluation and report read it.

    Attributes:
        name: the variant's name in the recipe.
        kind: majority, tfidf, zero-shot, few-shot, prompted, tuned.
        test, validation: predictions, one per example, in the order of the split.
        details: JSON-ready facts that the variant recorded: ``description`` (one line),
            ``cost`` ({train_seconds, score_seconds, train_tokens, score_tokens,
            peak_memory_bytes}), and for tuned variants ``training`` ({log_history: [...]},
            trainable counts), ``changes`` (weight change by layer) and ``forgetting`` (perplexity
            before and after).
        folder: the variant's folder in the run.
    """

    name: str
    kind: str
    test: list[Prediction]
    validation: list[Prediction]
    details: VariantDetails
    folder: Path
