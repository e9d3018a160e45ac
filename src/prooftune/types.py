"""The data types that all packages exchange: examples, predictions, studies, results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.label_sets import parse_label_set
from prooftune.variant_details import VariantDetails

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
QUESTION, CONTEXT = "question", "context"
"""Input fields of a question-answering example."""
HISTORY = "history"
"""Input field with the earlier turns of a conversation: a JSON list of messages with ``role`` and
``content``, empty for a question without any. The question is the last user message."""
ANSWERABLE, UNANSWERABLE = "with an answer", "without an answer"


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data.

    Attributes:
        id: unique within the study and stable between runs (``file.csv:17``, or the id column).
        inputs: field name -> text, in the order of the recipe's ``text`` columns.
        target: the label, or the answer (empty for an unanswerable question); None if unknown (in
            prediction). With several labels per text, their JSON list (`utils.label_sets`).
        source: origin, for messages: ``file.csv:17``.
        group: value of the group column; a grouped split puts a group into one split.
        references: all accepted answers, empty for an unanswerable question; None in
            classification.
        gold: keys of the passages with the answer, if the data names them.
        passages: ids of the passages in the context, where they are numbered from 1.
        language: language of the row, where the recipe names languages.
        metadata: names and values of the columns in `data.slices`, in their order.
    """

    id: str
    inputs: dict[str, str]
    target: str | None = None
    source: str = ""
    group: str | None = None
    references: tuple[str, ...] | None = None
    gold: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    language: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Twice as fast as the default of dataclasses; `DiskBackedList` unpickles examples often.
        return Example, (
            self.id,
            self.inputs,
            self.target,
            self.source,
            self.group,
            self.references,
            self.gold,
            self.passages,
            self.language,
            self.metadata,
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels of a text in ``task: multilabel``, sorted; may be empty."""
        return parse_label_set(self.target)

    @property
    def is_empty(self) -> bool:
        """Whether no input field has a text."""
        return not any(text.strip() for text in self.inputs.values())

    @property
    def stratum(self) -> str:
        """What stratified sampling balances: the label, or whether a question has an answer."""
        if self.references is None:
            return self.target or ""
        return ANSWERABLE if self.references else UNANSWERABLE


@dataclass(frozen=True, slots=True)
class Prediction:
    """The output of one variant for one example.

    Attributes:
        id: the example's id.
        output: the predicted label, empty if the output is invalid; or the answer, empty for "no
            answer"; or the JSON list of predicted labels (`utils.label_sets`).
        valid: False if a generated text is no label, or if an extractive answer is no span of its
            context.
        log_probs: log-probability of every label in nats, in the study's label order; normalised,
            but independent in ``task: multilabel``. Empty for variants without probabilities.
        prompt_tokens: tokens of the prompt (of all windows).
        truncated_tokens: input tokens truncated to fit `prompt.max_length`.
        raw: the generated text; for questions, the best answer other than "no answer".
        generated_tokens: generated tokens, with the stop token.
        answer_log_prob: log-probability of `raw` in nats; None if nothing was generated.
        no_answer_log_prob: log-probability of "no answer" in nats; None if that is no option.
        windows: windows into which the context was split; 0 without a context.
        retrieved: ids of the passages in the prompt, best first.
        cited: those that the answer cites.
        unknown_citations: number of citations of passages that were not in the prompt.
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
        train, validation, test: the examples; every id is in exactly one of them. They are usually
            in a `DiskBackedList`, which unpickles an example at every access.
        labels: the label set, in the order of every array of the study; empty for questions.
        notes: changes to the data that a reader must know (rows dropped, duplicates removed), one
            sentence each.
        scale: value of each label where labels are ordinal (``data.ordinal``), ascending; empty:
            labels are names.
        templated: splits that were held out of near-copies of each other, by exact copies only.
        costs: cost of predicting each label (column) where another is true (row), if errors have
            costs; empty: they have none.
        empty_rows: sources of rows without text, left out before the rows were split.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    labels: list[str]
    notes: list[str] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    templated: tuple[SplitName, ...] = ()
    costs: list[list[float]] = field(default_factory=list)
    empty_rows: tuple[str, ...] = ()

    def splits(self) -> dict[SplitName, Sequence[Example]]:
        """The examples by split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def languages(self) -> list[str]:
        """The languages of the rows, sorted; empty where the recipe names none."""
        if not any(examples and examples[0].language for examples in self.splits().values()):
            return []  # without reading every row: languages are named of all rows of a split
        return sorted({e.language for s in self.splits().values() for e in s if e.language})

    def map_examples(self, change: Callable[[Example], Example]) -> Study:
        """The study with `change` applied to every example."""
        return replace(
            self,
            train=DiskBackedList(map(change, self.train)),
            validation=DiskBackedList(map(change, self.validation)),
            test=DiskBackedList(map(change, self.test)),
        )

    def strata(self) -> list[str]:
        """The labels; for questions, "with an answer" and "without an answer", as far as they
        occur."""
        if self.labels:
            return self.labels
        strata = {e.stratum for examples in self.splits().values() for e in examples}
        return [stratum for stratum in (ANSWERABLE, UNANSWERABLE) if stratum in strata]


@dataclass(frozen=True, slots=True)
class VariantResult:
    """The result of one variant, read from the run folder for evaluation and report.

    Attributes:
        name: the variant's name in the recipe.
        kind: the kind of variant in the recipe (``tfidf``, ``zero-shot``, ``tuned``, ...).
        test, validation: one prediction per example, in the order of the split.
        details: what the variant recorded about itself, see `VariantDetails`.
        folder: the variant's folder in the run.
        repeats: results of its further trainings with other seeds, where there are any.
        adapter: the variant whose trained weights it uses; None: its own, or none.
        training: number of this training, from 0.
    """

    name: str
    kind: str
    test: list[Prediction]
    validation: list[Prediction]
    details: VariantDetails
    folder: Path
    repeats: tuple[VariantResult, ...] = ()
    adapter: str | None = None
    training: int = 0

    @property
    def trainings(self) -> tuple[VariantResult, ...]:
        """The result of every training, this one first."""
        return (self, *self.repeats)
