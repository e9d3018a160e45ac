"""The sections that say where the data comes from, and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prooftune.recipe.base import Section

Bin = tuple[float | None, float | None]

Task = Literal["classification", "extractive-qa", "free-text-qa"]
TASKS: tuple[Task, ...] = ("classification", "extractive-qa", "free-text-qa")


class SourceOptions(Section):
    """How a file becomes examples. Given once under ``data`` and, where files differ, again per
    split."""

    format: Literal["csv", "json", "jsonl", "parquet", "text", "folders", "squad"] | None = None
    """None: from the file's name. ``text``: one ``text<delimiter>label`` a line. ``folders``: one
    folder of text files per label. ``squad``: the JSON of SQuAD 1 and 2."""
    delimiter: str | None = None
    """Column separator of csv and text. None: comma for .csv, tab for .tsv."""
    quoting: bool | None = None
    """Whether csv fields may be quoted with ``"``. None: found by looking."""
    encoding: str = "utf-8"
    """Of text files, by Python's name for it."""
    header: bool = True
    """Whether the first csv row names the columns; without it columns are named by `columns` or 0,
    1, 2 …"""
    columns: list[str] | None = None
    """Names for the columns, in the file's order."""
    text: str | list[str] | dict[str, str] | None = None
    """The input column, a list of them, or {field name in the prompt: column}. Questions:
    ``question``, and ``context`` where there is such a column."""
    label: str | None = None
    """The column to predict. None: ``label``; of questions ``answers``, ``answer`` or ``output``,
    which may hold a list of accepted answers (as JSON in a text file), and nothing where there is
    no answer."""
    labels: dict[str, str] | None = None
    """Raw value -> label name, for data that writes 1, 2, 3. Values outside it are errors."""
    bins: dict[str, Bin] | None = None
    """Label name -> [low, high] for a numeric label column; rows in no bin are dropped and counted.
    """
    id: str | None = None
    """Column that identifies a row. None: the file's name and line."""
    gold: str | None = None
    """Questions: column with the id, or a list of the ids, of the passages that hold the answer."""
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
        empty = [
            name
            for name, (low, high) in (value or {}).items()
            if low is not None and high is not None and low > high
        ]
        if empty:
            raise ValueError(
                "\n".join(
                    f"'{name}' can hold nothing: its low end is above its high end"
                    for name in empty
                )
            )
        return value


class Source(SourceOptions):
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
    """Each label in its share (questions: those with and those without an answer), at random, or no
    value of ``group`` on two sides."""


class Limit(Section):
    """At most this many rows of each split, drawn with the seed and stratified by label."""

    train: int | None = Field(default=None, gt=0)
    validation: int | None = Field(default=None, gt=0)
    test: int | None = Field(default=None, gt=0)


class Data(SourceOptions):
    folder: str | None = None
    """Where local paths of this section start, seen from the recipe's own folder: another language
    of the same layout is one setting."""
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
            source = getattr(self, split) and self.source(split)
            if source and source.labels and source.bins:
                raise ValueError(
                    f"'labels' and 'bins' contradict each other (in {split}): keep the one that "
                    "fits the column"
                )
        return self

    def source(self, split: Literal["train", "validation", "test"]) -> Source:
        """The source of one split with the options given once under ``data`` filled in.

        Raises:
            KeyError: the recipe names no source for that split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise KeyError(split)
        shared = {
            name: getattr(self, name)
            for name in SourceOptions.model_fields
            if name in self.model_fields_set
        }
        own = {name: getattr(source, name) for name in source.model_fields_set}
        if self.folder is not None and not own["path"].startswith(("hub:", "pypi:")):
            own["path"] = str(Path(self.folder) / own["path"])
        return Source(**{**shared, **own})


class Audit(Section):
    leak: Literal["error", "drop", "allow"] = "error"
    """What a train or validation row that also stands in the test set is: an error, dropped, or
    only reported."""
    near_duplicates: float | None = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of word 3-grams from which two texts count as near-duplicates; null: exact
    only."""
    max_truncated: float = Field(default=0.2, ge=0, le=1)
    """Share of examples whose inputs may be shortened to fit `prompt.max_length` before it is an
    error."""
