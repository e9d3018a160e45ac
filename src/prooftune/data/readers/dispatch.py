"""One file or folder -> a table of strings. Every problem names the file, the row and the way out."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from prooftune.data.readers import delimited, json_parquet
from prooftune.data.readers.arrow import read_arrow
from prooftune.data.readers.compression import uncompressed
from prooftune.data.readers.encoding import (
    check_readable,
    detect_format,
    iter_lines,
    missing_file,
    read_text_file,
)
from prooftune.data.readers.spreadsheet import read_spreadsheet, split_sheet
from prooftune.data.readers.sqlite import read_sqlite, split_query
from prooftune.data.readers.squad import read_squad
from prooftune.data.readers.table import MAX_FIELD_CHARS, Table
from prooftune.errors import UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList

__all__ = ["Table", "detect_format", "read_table"]

_LONGEST_LINE = 64 * MAX_FIELD_CHARS
"""Of a delimited file, whose fields are limited one by one."""


def read_table(path: Path, source: Source) -> Table:
    """Read a local file or folder as the recipe says; JSON and SQuAD's layout whole, the others row
    by row.

    Raises:
        UsageError: it is missing, empty, of another kind, in another encoding, or its rows do not
            fit together.
    """
    path, part = split_part(path)
    path = uncompressed(path)
    format_ = source.format or detect_format(path)
    if format_ == "folders":
        return _folders(path, source)
    check_readable(path)
    if format_ == "parquet":
        return json_parquet.read_parquet(path)
    if format_ == "arrow":
        return read_arrow(path)
    if format_ == "spreadsheet":
        return read_spreadsheet(path, part, header=source.header)
    if format_ == "sqlite":
        return read_sqlite(path, part)
    if format_ == "json":
        text = read_text_file(path, source.encoding)
        if is_json_lines(text):  # most files called .json that hold one object a line
            return json_parquet.read_jsonl(path.name, io.StringIO(text))
        return json_parquet.read_json(path.name, text, source.split)
    if format_ == "squad":
        return read_squad(path.name, read_text_file(path, source.encoding))
    if format_ == "jsonl":
        return json_parquet.read_jsonl(path.name, iter_lines(path, source.encoding, newline="\n"))
    if format_ == "text":
        return delimited.read_text_label_lines(
            path.name, iter_lines(path, source.encoding, newline="\n"), source.delimiter
        )
    return delimited.read_csv(
        path.name,
        lambda: iter_delimited_lines(path, source),
        source,
        source.delimiter or default_delimiter(path),
    )


def split_part(path: Path) -> tuple[Path, str | None]:
    """A file and the part of it that a reference names after ``#``: a sheet, a table, a query."""
    if path.exists() or "#" not in str(path):
        return path, None
    path, sheet = split_sheet(path)
    return (path, sheet) if sheet is not None else split_query(path)


def is_json_lines(text: str) -> bool:
    """Whether a text holds one JSON object a line, rather than one JSON value."""
    lines = [line for line in itertools.islice(text.lstrip().splitlines(), 2) if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
        return False
    try:
        return all(isinstance(json.loads(line), dict) for line in lines)
    except (json.JSONDecodeError, RecursionError):
        return False


def iter_delimited_lines(path: Path, source: Source) -> Iterator[str]:
    """The lines of a delimited file with their ends, cut at every kind of line end."""
    return iter_lines(path, source.encoding, newline="", longest=_LONGEST_LINE)


def default_delimiter(path: Path) -> str:
    """What separates columns in a file of this name."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _folders(path: Path, source: Source) -> Table:
    if not path.is_dir():
        raise (
            missing_file(path)
            if not path.exists()
            else UsageError(f"{path} is a file; data.format: folders needs a folder")
        )
    found = list(_files_by_label(path))
    if not found:
        raise UsageError(
            f"{path}: one folder of text files per label is expected; found "
            f"{', '.join(sorted(p.name for p in path.iterdir())[:6]) or 'nothing'}"
        )
    rows = DiskBackedList[list[str | None]](
        [read_text_file(file, source.encoding), label, f"{label}/{file.name}"]
        for label, file in found
    )
    return Table(
        path.name,
        ["text", "label", "file"],
        rows,
        [f"{label}/{file.name}" for label, file in found],
    )


def _files_by_label(path: Path) -> Iterator[tuple[str, Path]]:
    for folder in _visible(path):
        if not folder.is_dir():
            continue
        for file in _visible(folder):
            if file.is_dir():
                raise UsageError(
                    f"{file} is a folder inside a label's folder. Is {folder} the folder to name "
                    "in the recipe? "
                    "Each folder in it is one label, with text files and nothing else"
                )
            yield folder.name, file


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
