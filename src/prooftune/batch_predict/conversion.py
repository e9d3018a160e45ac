"""Inputs that cannot be read row by row, as JSON Lines that can: spreadsheets, JSON, databases."""

from __future__ import annotations

import json
from pathlib import Path

from prooftune.data.readers import arrow, spreadsheet, sqlite
from prooftune.data.readers.dispatch import file_of, read_table
from prooftune.data.readers.table import without_blank_rows
from prooftune.recipe import Source
from prooftune.utils.encoding_detection import detect_encoding
from prooftune.utils.files import atomic_path, fingerprint, missing_file
from prooftune.utils.progress import notify

SUFFIXES = (".json", *spreadsheet.SUFFIXES, *arrow.SUFFIXES, *sqlite.SUFFIXES)
"""File names of these formats, before the ``#`` of a sheet, list or table."""


def is_convertible(path: Path) -> bool:
    """Whether a path names a file, or a part of one, in such a format."""
    return file_of(path).suffix.lower() in SUFFIXES


def as_json_lines(path: Path, folder: Path) -> Path:
    """The rows of a file as JSON Lines with texts as values, written once.

    Args:
        path: the file, or a part of it, as in ``book.xlsx#Sheet2``.
        folder: where to write; found again after an interruption.

    Raises:
        UsageError: the file is missing or cannot be read.
    """
    file = file_of(path)
    if not file.is_file():
        raise missing_file(file)
    status = file.stat()
    # A changed input must not resume an earlier one.
    key = fingerprint([str(path), status.st_size, status.st_mtime_ns])[:16]
    target = folder / key / f"{file.name}.jsonl"
    if target.is_file():
        return target
    is_text = file.suffix.lower() == ".json"
    encoding = detect_encoding(file).encoding if is_text else "utf-8"
    table = without_blank_rows(read_table(path, Source(path=str(path), encoding=encoding)))
    for note in table.notes:
        notify(note)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in table.rows:
            record = dict(zip(table.columns, row, strict=True))
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return target
