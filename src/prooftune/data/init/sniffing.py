"""Detection of a data file's layout: files, encoding, format, separator and header."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from prooftune.data.init.csv_layout import detect_csv_layout
from prooftune.data.init.delimiters import (
    NoLabels,
    text_delimiter,
)
from prooftune.data.init.format_by_content import format_by_content
from prooftune.data.init.inferred_options import InferredOptions, InitChoices
from prooftune.data.readers.class_names import class_names
from prooftune.data.readers.compression import named_as, uncompressed
from prooftune.data.readers.dispatch import (
    Table,
    is_json_lines,
    read_table,
    split_part,
)
from prooftune.data.readers.encoding import (
    UnknownFormat,
    check_readable,
    detect_format,
    is_text,
    open_text,
)
from prooftune.data.readers.foreign_formats import (
    refuse_document,
    refuse_long_separator,
    refuse_page,
)
from prooftune.data.readers.json_shapes import record_lists
from prooftune.data.readers.shards import concatenate_tables, expand_path, split_folder
from prooftune.data.readers.table import without_blank_rows
from prooftune.errors import UsageError, nearest
from prooftune.recipe import Source
from prooftune.recipe.data import Format
from prooftune.utils.encoding_detection import EncodingGuess, detect_encoding

TEXT_FORMATS = ("csv", "json", "jsonl", "text", "fasttext", "trec", "chat", "squad")
_SAMPLE_CHARACTERS = 4_000_000
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


def sniff_file(path: Path, choices: InitChoices | None = None) -> tuple[Table, InferredOptions]:
    """Detect how a file, pattern or folder is laid out, and read it so.

    Raises:
        UsageError: it cannot be read, or no layout fits.
    """
    choices = choices or InitChoices()
    inferred = InferredOptions()
    files = _files(path, inferred)
    if files == [path] and path.is_dir():
        inferred.add("format", "folders", "Folder: each folder in it is one label.")
        inferred.split_folders = _split_folders(path)
        if inferred.split_folders:
            inferred.notes.append(
                "Folders with splits: "
                + ", ".join(f"{k} from '{v}'" for k, v in inferred.split_folders.items())
                + "."
            )
            path = path / inferred.split_folders["train"]
        table = read_table(path, Source(path=str(path), format="folders"))
        inferred.notes += table.notes
        return table, inferred
    packed, _ = split_part(files[0])
    first = uncompressed(packed)
    with named_as(packed, first):
        format_ = _detect_layout(first, choices, inferred)
    # Only training rows are inspected: the recipe must not depend on test rows.
    source = Source(path=str(path), **inferred.options, split=inferred.splits.get("train"))
    table = concatenate_tables(path.name, [read_table(file, source) for file in files])
    inferred.repeated = table.repeated
    if table.repeated and format_ == "csv":
        # Names that are written down are those that the recipe's other options refer to.
        inferred.options["columns"] = table.columns
        table = replace(table, repeated=())
    table = without_blank_rows(table)
    inferred.notes += table.notes
    return table, inferred


def _detect_layout(path: Path, choices: InitChoices, inferred: InferredOptions) -> str:
    """Format, encoding and layout of one file; returns the format."""
    check_readable(path)
    format_ = _format(path, choices, inferred)
    if format_ in ("parquet", "arrow"):
        inferred.class_names = class_names(path)
    if format_ in TEXT_FORMATS:
        _sniff_text(path, format_, choices, inferred)
    return format_


def _split_folders(path: Path) -> dict[str, str]:
    """Split -> its folder, where a folder has one per split, with one folder of texts per label in
    it (the IMDb reviews); empty elsewhere."""
    folders = [p.name for p in sorted(path.iterdir()) if any(q.is_dir() for q in p.glob("*"))]
    named = _named_splits(folders)
    return named if "train" in named else {}


def _files(path: Path, inferred: InferredOptions) -> list[Path]:
    """The files of the training split; other splits are noted."""
    if path.is_dir():
        by_split = split_folder(path)
        # A pattern names its files; only a folder is searched for splits.
        named = _named_splits(by_split)
        if "train" in named and len(by_split) > 1:
            inferred.splits = named
            inferred.notes.append(
                f"Folder with splits {', '.join(map(repr, by_split))}: "
                + ", ".join(f"{split} from '{name}'" for split, name in named.items())
                + "."
            )
            return by_split[named["train"]]
    files = expand_path(path)
    if len(files) > 1:
        inferred.notes.append(f"{len(files)} files are read as one table.")
    return files


def _named_splits(names: Iterable[str]) -> dict[str, str]:
    """Split of the recipe -> the name that the data has for it."""
    known = {}
    for split, spellings in _SPLITS.items():
        for name in names:
            if name.lower() in spellings and split not in known:
                known[split] = name
    return known


def _format(path: Path, choices: InitChoices, inferred: InferredOptions) -> str:
    if choices.format is not None:
        formats = get_args(Format)
        if choices.format not in formats:
            raise UsageError(
                f"--format: one of {', '.join(formats)}, found '{choices.format}'"
                f"{nearest(choices.format, formats)}"
            )
        inferred.options["format"] = choices.format
        return choices.format
    try:
        by_name = detect_format(path)
    except UnknownFormat:
        by_name = ""
    # Web programs export tables of text as .xls.
    if by_name == "csv" and (found := _json_format(_sample(path, detect_encoding(path).encoding))):
        inferred.add("format", found, f"The content is {found}, whatever the name says.")
        return found
    if by_name and not (by_name == "spreadsheet" and is_text(path)):
        return by_name
    format_ = format_by_content(path.name, _sample(path, detect_encoding(path).encoding))
    inferred.add("format", format_, f"The content looks like {format_}; the name does not tell.")
    return format_


def _json_format(text: str) -> str:
    """json or jsonl, where a text is that; empty elsewhere."""
    if is_json_lines(text):
        return "jsonl"
    return "json" if re.match(r"\s*\[\s*\{\s*\"", text) else ""


def _sniff_text(path: Path, format_: str, choices: InitChoices, inferred: InferredOptions) -> None:
    """Encoding, then separator and header, of a text file."""
    guess = EncodingGuess(choices.encoding) if choices.encoding else detect_encoding(path)
    # UTF-8 is the recipe's default and need not be written.
    if guess.encoding != "utf-8":
        _note_encoding(guess, inferred)
    text = _sample(path, guess.encoding)
    if format_ == "csv":
        # Web servers answer with a page under any name.
        refuse_page(path.name, text)
        detect_csv_layout(path, text, inferred)
    elif format_ == "text":
        try:
            delimiter = text_delimiter(path.name, text)
        except NoLabels:
            refuse_document(path.name, text)
            refuse_long_separator(path.name, text)
            raise
        inferred.add("delimiter", delimiter, f"Each line is a text, {delimiter!r} and its label.")
    elif format_ == "json":
        _json_layout(path, text, inferred)


def _note_encoding(guess: EncodingGuess, inferred: InferredOptions) -> None:
    sample = f" ('{guess.sample}')" if guess.sample else ""
    if guess.certain:
        inferred.add("encoding", guess.encoding, f"Encoding: {guess.encoding}{sample}.")
        return
    others = ", ".join(f"{name} ('{words}')" for name, words in guess.alternatives) or "another"
    inferred.add(
        "encoding",
        guess.encoding,
        f"Encoding: not certain. Read as {guess.encoding}{sample}; it could be {others}. If the "
        "words look wrong, set data.encoding (or --encoding).",
    )
    inferred.comments["encoding"] = f"not certain: could be {others}"


def _json_layout(path: Path, text: str, inferred: InferredOptions) -> None:
    if is_json_lines(text):
        inferred.notes.append("The file holds one JSON object per line (JSON Lines).")
        return
    if not text.lstrip().startswith("{"):
        return
    encoding = inferred.options.get("encoding", "utf-8")
    try:
        value = json.loads(path.read_text(encoding))
    except (ValueError, RecursionError):
        return  # the reader says what is wrong
    lists = record_lists(value)
    named = _named_splits(lists)
    if "train" in named and len(lists) > 1:
        inferred.splits = named
        inferred.notes.append(f"The file holds the splits {', '.join(map(repr, lists))}.")


def _sample(path: Path, encoding: str) -> str:
    """The first lines, at most about 4 million characters, without a byte-order mark."""
    with open_text(path, encoding, newline="") as handle:
        text = handle.read(_SAMPLE_CHARACTERS)
    if len(text) == _SAMPLE_CHARACTERS:
        # The sample ends inside a line, which would look like a row that is too short.
        text = text[: text.rfind("\n") + 1] or text
    # Files that were appended to each other have byte-order marks inside.
    return text.removeprefix("\ufeff").replace("\n\ufeff", "\n")
