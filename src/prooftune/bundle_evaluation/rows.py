"""Read labelled rows as the bundle's study read its own."""

from __future__ import annotations

import codecs
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from prooftune.bundle.manifest import CommonManifest
from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.dispatch import (
    default_delimiter,
    detect_format,
    iter_delimited_lines,
    read_table,
    split_part,
)
from prooftune.data.readers.header_rows import find_header
from prooftune.data.readers.shards import expand_path
from prooftune.data.sources import read_source
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Recipe, Source, SourceOptions, Task
from prooftune.types import CONTEXT, Example
from prooftune.utils.encoding_detection import decodes, detect_encoding

FILE_OPTIONS = ("format", "delimiter", "quoting", "encoding", "skip_lines", "header", "columns")
"""Recipe options on the layout of a file; a file with another extension has a layout of its own."""
MEANING_OPTIONS = (
    "text",
    "label",
    "labels",
    "label_columns",
    "label_separator",
    "bins",
    "group",
    "unlabelled",
)
"""Recipe options on the content of the rows, whatever the file's layout."""
TEXT_FORMATS = ("csv", "json", "jsonl", "text", "fasttext", "trec", "chat", "squad")
MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows to evaluate a bundle on.

    Attributes:
        examples: with the bundle's labels as targets, or with reference answers.
        notes: how the file was read and which rows were dropped, one sentence each.
        slices: column -> its value in each row; None where it is empty.
    """

    examples: Sequence[Example]
    notes: list[str]
    slices: dict[str, list[str | None]] = field(default_factory=dict)


def read_rows(
    file: str | Path,
    manifest: CommonManifest,
    recipe: Recipe,
    text: Sequence[str] | None = None,
    label: str | None = None,
    slices: Sequence[str] = (),
) -> LabelledRows:
    """Read a labelled file with the data options of the bundle's study.

    Layout options (delimiter, header, ...) apply to a file with the extension of the study's own
    test file. The encoding is the study's if it decodes the file, else the detected one.

    Args:
        file: a path as in a recipe: a file, folder or glob pattern.
        manifest: the bundle's manifest.
        recipe: the bundle's recipe.
        text: columns of the bundle's input fields, in their order. Default: the study's columns.
        label: column of the label or the reference answers. Default: the study's column.
        slices: columns whose values are returned, too.

    Raises:
        UsageError: the file cannot be read, lacks a column, or has labels unknown to the bundle.
    """
    source, notes = _source(Path(file).expanduser(), manifest, recipe, text, label)
    try:
        loaded = read_source(source, Path(), recipe.task)
    except UsageError as error:
        # The words of `data.sources` and `data.questions` for a missing column.
        if " has no column " not in str(error):
            raise
        raise UsageError(f"{error}. Other columns: --text COLUMN, --label COLUMN") from None
    if recipe.has_labels:
        _check_labels(loaded.examples, manifest["labels"], loaded.name, recipe.task)
    # Once more for each column: a source has one group column.
    columns = {column: _column(source, recipe, column, loaded.examples) for column in slices}
    return LabelledRows(loaded.examples, [*notes, *loaded.notes], columns)


def _column(
    source: Source, recipe: Recipe, column: str, examples: Sequence[Example]
) -> list[str | None]:
    """The values of a column, by reading the file again with the column as its groups.

    Raises:
        UsageError: there is no such column.
    """
    try:
        grouped = read_source(source.model_copy(update={"group": column}), Path(), recipe.task)
    except UsageError as error:
        raise UsageError(f"--slice {column}: {error}") from None
    values = {example.id: example.group for example in grouped.examples}
    return [values.get(example.id) for example in examples]


def sample_rows(
    limit: int, seed: int, rows: LabelledRows, others: LabelledRows | None
) -> tuple[LabelledRows, LabelledRows | None]:
    """The same random sample of both readings of a file, in the order of the file."""
    total = len(rows.examples)
    if limit >= total:
        return rows, others
    # Sorted, so that rows stay in the order of the file.
    chosen = sorted(random.Random(seed).sample(range(total), limit))
    note = f"A random sample of {limit:,} of {total:,} rows (--limit)."

    def sample(part: LabelledRows) -> LabelledRows:
        return LabelledRows(
            [part.examples[i] for i in chosen],
            [*part.notes, note],
            {column: [values[i] for i in chosen] for column, values in part.slices.items()},
        )

    return sample(rows), None if others is None else sample(others)


def _source(
    path: Path,
    manifest: CommonManifest,
    recipe: Recipe,
    text: Sequence[str] | None,
    label: str | None,
) -> tuple[Source, list[str]]:
    """The source of the file, and notes on how it differs from the study's."""
    # New data look like the test file, where there was one.
    study = recipe.data.source("test" if recipe.data.test else "train")
    same_layout = not study.paths[0].startswith(("hub:", "pypi:")) and (
        # Another extension: the file is laid out in another way, and detected.
        _suffixes(study.paths[0]) == _suffixes(str(path))
    )
    names = (*MEANING_OPTIONS, *((*FILE_OPTIONS, "split") if same_layout else ()))
    options = {
        name: getattr(study, name)
        for name in names
        if name in SourceOptions.model_fields and name in study.model_fields_set
    }
    if text:
        options["text"] = _text_columns(text, manifest)
    if label:
        options["label"] = label
        options.pop("label_columns", None)
    if options.get("labels"):
        # New data may have the names of the labels instead of the study's codes.
        options["labels"] = {
            **{name: name for name in manifest["labels"]},
            **options["labels"],
        }
    source = Source(path=str(path), **options)
    # One file stands for all: files of one table have one encoding.
    first = expand_path(split_part(path)[0], source.split)[0]
    notes = []
    encoding = _encoding(path, first, study.encoding, source)
    if codecs.lookup(encoding).name != codecs.lookup(study.encoding).name:
        notes.append(f"{path.name} was read as {encoding}; the study's data is {study.encoding}.")
    source = source.model_copy(update={"encoding": encoding})
    source, more_notes = _with_header(source, path, first, recipe)
    notes += more_notes
    # Groups are a matter of the study's file; a new file may have none.
    if source.group and source.group not in read_table(_first_table(path, first), source).columns:
        notes.append(f"{path.name} has no column '{source.group}' (data.group): rows count alone.")
        source = source.model_copy(update={"group": None})
    return source, notes


def _with_header(
    source: Source, path: Path, first: Path, recipe: Recipe
) -> tuple[Source, list[str]]:
    """The separator and the header's line of a CSV file whose columns are known by their names,
    unless the study's file had other ones than usual."""
    file = uncompressed(_first_table(path, first))
    if not file.is_file() or (source.format or _format_of(file)) != "csv":
        return source, []
    text = source.text or ("text" if recipe.has_labels else "question")
    columns = (
        [text] if isinstance(text, str) else [*(text.values() if isinstance(text, dict) else text)]
    )
    columns += source.label_columns or [
        source.label or ("label" if recipe.has_labels else "answer")
    ]
    usual = source.delimiter or default_delimiter(file)
    lines = iter_delimited_lines(file, source)
    if not source.header and not source.skip_lines:
        # New data may have a header where the study's file had none.
        if find_header(islice(lines, 1), [[column] for column in columns], (usual,)) is None:
            return source, []
        note = f"{path.name}: the first row is a header, unlike in the study's file."
        return source.model_copy(update={"header": True, "columns": None}), [note]
    if source.delimiter or source.skip_lines or source.columns:
        return source, []
    layout = find_header(lines, [[column] for column in columns], (usual, *",;\t|"))
    if layout is None or layout == (usual, 0):
        return source, []
    delimiter, above = layout
    note = f"{path.name}: columns are between {delimiter!r}"
    note += f", and the first {above} line(s) are above the header." if above else "."
    return source.model_copy(update={"delimiter": delimiter, "skip_lines": above}), [note]


def _format_of(file: Path) -> str:
    try:
        return detect_format(file)
    except UsageError:
        return ""  # its reader says what is wrong


def _suffixes(path: str) -> str:
    return Path(path.partition("#")[0]).suffix.lower()


def _first_table(path: Path, first: Path) -> Path:
    """The first file, with the part that ``FILE#PART`` names."""
    return path if split_part(path)[1] is not None else first


def _text_columns(columns: Sequence[str], manifest: CommonManifest) -> dict[str, str]:
    retrieves = manifest.get("retrieval") is not None
    # A bundle that retrieves finds the context itself.
    fields = [f for f in manifest["fields"] if not (retrieves and f == CONTEXT)]
    if len(columns) != len(fields):
        raise UsageError(
            f"--text names {len(columns)} column{'s' if len(columns) > 1 else ''}, but the bundle "
            f"reads {len(fields)}: {', '.join(fields)}. Give one --text for each, in this order"
        )
    return dict(zip(fields, columns, strict=True))


def _encoding(path: Path, first: Path, own: str, source: Source) -> str:
    """The study's encoding if it decodes the file, else the detected one.

    A file that is valid UTF-8 or has a byte-order mark is read as such: single-byte encodings
    decode almost any file, to the wrong characters.
    """
    file = uncompressed(_first_table(path, first))
    if not file.is_file() or (source.format or detect_format(file)) not in TEXT_FORMATS:
        return own
    # ASCII reads the same in all encodings that contain it, which UTF-16 and UTF-32 do not.
    if "a".encode(own) == b"a" and decodes(file, "ascii"):
        return own
    guess = detect_encoding(file).encoding
    if guess.startswith("utf") or not decodes(file, own):
        return guess
    return own


def _check_labels(
    examples: Sequence[Example], labels: Sequence[str], name: str, task: Task
) -> None:
    """Refuse labels that the bundle cannot predict."""
    known = set(labels)
    unknown = Counter(
        label
        for e in examples
        for label in (e.targets if task == "multilabel" else (e.target,))
        if label not in known
    )
    if not unknown:
        return
    shown = ", ".join(f"'{str(label)[:60]}' ({n:,})" for label, n in unknown.most_common(MAX_NAMED))
    more = f" and {len(unknown) - MAX_NAMED:,} more" if len(unknown) > MAX_NAMED else ""
    hint = nearest(str(next(iter(unknown))), labels)
    raise UsageError(
        f"{name}: {unknown.total():,} of {len(examples):,} rows have labels that the bundle does "
        f"not know: {shown}{more}{hint}. It knows {', '.join(repr(k) for k in labels[:20])}"
        f"{' …' if len(labels) > 20 else ''}. Rename these labels, remove the rows, or name the "
        "right column with --label"
    )
