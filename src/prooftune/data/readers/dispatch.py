"""Read a file or folder as a table of strings, with the reader for its format.

Every error names the file, the row, and how to fix it.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from prooftune.data.readers import delimited, json_parquet
from prooftune.data.readers.arrow import read_arrow
from prooftune.data.readers.chat_text import read_chat_text
from prooftune.data.readers.compression import archive_of, named_as, uncompressed
from prooftune.data.readers.encoding import (
    check_readable,
    detect_format,
    iter_lines,
    read_text_file,
)
from prooftune.data.readers.json_shapes import split_list
from prooftune.data.readers.spreadsheet import read_spreadsheet, split_sheet
from prooftune.data.readers.sqlite import read_sqlite, split_query
from prooftune.data.readers.squad import read_squad
from prooftune.data.readers.table import MAX_FIELD_CHARS, Table
from prooftune.data.readers.text_lines import read_fasttext, read_text_label_lines, read_trec
from prooftune.errors import UsageError
from prooftune.recipe import Source
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.encoding_detection import decodes, detect_encoding
from prooftune.utils.files import is_system_file, missing_file

__all__ = ["Table", "detect_format", "read_table"]

_SEPARATOR_LINE = re.compile(r"\s*\"?sep=(\\t|[^\w\s\"]|\t)\"?\s*$", re.IGNORECASE)
"""Excel's way to name the separator, above the header: ``sep=;``."""
UNLABELLED_FOLDERS = ("unsup", "unlabeled", "unlabelled", "unsupervised")
"""Folders of texts without labels, as the IMDb reviews have."""
_MAX_LINE_CHARS = 64 * MAX_FIELD_CHARS
"""For delimited files; their fields have the limit `MAX_FIELD_CHARS`."""


def read_table(path: Path, source: Source) -> Table:
    """Read a local file or folder; JSON and SQuAD files as a whole, other formats row by row.

    Raises:
        UsageError: the file is missing or empty, has another format or encoding, or its rows are
            inconsistent.
    """
    # Before the archive is opened: the part names something inside it.
    path, part = split_part(path)
    unpacked = uncompressed(path)
    with named_as(path, unpacked):
        return _read_unpacked(unpacked, source, part)


def _read_unpacked(path: Path, source: Source, part: str | None) -> Table:
    format_ = source.format or detect_format(path)
    if format_ == "folders":
        return _read_folders(path, source)
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
        if is_json_lines(text):  # many .json files are JSON Lines
            return json_parquet.read_jsonl(path.name, io.StringIO(text))
        return json_parquet.read_json(path.name, text, part or source.split)
    if format_ == "squad":
        return read_squad(path.name, read_text_file(path, source.encoding))
    if format_ == "chat":
        return read_chat_text(path.name, read_text_file(path, source.encoding))
    if format_ == "jsonl":
        return json_parquet.read_jsonl(path.name, iter_lines(path, source.encoding, newline=None))
    if format_ == "fasttext":
        return read_fasttext(path.name, iter_lines(path, source.encoding, newline="\n"))
    if format_ == "trec":
        return read_trec(path.name, iter_lines(path, source.encoding, newline="\n"))
    if format_ == "text":
        return read_text_label_lines(
            path.name, iter_lines(path, source.encoding, newline="\n"), source.delimiter
        )
    return delimited.read_csv(
        path.name,
        lambda: iter_delimited_lines(path, source),
        source,
        delimiter_of(path, source),
    )


def split_part(path: Path) -> tuple[Path, str | None]:
    """Split ``FILE#PART`` into the file and the sheet, table, query or list; None without one."""
    # The name of a file may hold a `#`.
    if path.exists() or "#" not in str(path):
        return path, None
    path, part = split_sheet(path)
    if part is None:
        path, part = split_query(path)
    if part is None:
        path, part = split_list(path)
    return path, part


def file_of(path: Path) -> Path:
    """The file on disk of a path that may name a part of it: ``FILE#PART``, ``FILE.zip#MEMBER``."""
    return archive_of(split_part(path)[0])


def is_json_lines(text: str) -> bool:
    """Whether a text is JSON Lines rather than a single JSON value, by its first two lines."""
    # Two lines tell: a document that is indented has no whole object in its first line.
    # `splitlines` would also split at the line separators of Unicode, inside of texts.
    lines = [line for line in re.split(r"\r\n?|\n", text.lstrip(), maxsplit=2)[:2] if line.strip()]
    if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
        return False
    try:
        return all(isinstance(json.loads(line), dict) for line in lines)
    except (json.JSONDecodeError, RecursionError):
        return False


def iter_delimited_lines(path: Path, source: Source) -> Iterator[str]:
    """The lines of a delimited file with their ends, cut at every kind of line end.

    Skipped lines (`Source.skip_lines`, Excel's ``sep=`` line) come as empty ones, so that line
    numbers stay those of the file.
    """
    lines = iter_lines(path, source.encoding, newline="", longest=_MAX_LINE_CHARS)
    for number, line in enumerate(lines):
        skipped = number < source.skip_lines or (
            number == source.skip_lines and _SEPARATOR_LINE.match(line)
        )
        # An empty line in its place keeps line numbers those of the file. Files that were appended
        # to each other have byte-order marks inside.
        yield "\n" if skipped else line.removeprefix("\ufeff")


def delimiter_of(path: Path, source: Source) -> str:
    """The recipe's separator, else that of Excel's ``sep=`` line, else the usual one."""
    if source.delimiter:
        return source.delimiter
    lines = iter_lines(path, source.encoding, newline="", longest=_MAX_LINE_CHARS)
    first = next(itertools.islice(lines, source.skip_lines, None), "")
    match = _SEPARATOR_LINE.match(first)
    return match[1].replace("\\t", "\t") if match else default_delimiter(path)


def default_delimiter(path: Path) -> str:
    """Return the default column separator for a file name."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _read_folders(path: Path, source: Source) -> Table:
    """Read a folder with one folder of text files per label."""
    # A missing folder and a file each have another remedy.
    if not path.is_dir():
        raise (
            missing_file(path)
            if not path.exists()
            else UsageError(f"{path} is a file; data.format: folders needs a folder")
        )
    files = list(_files_by_label(path))
    if not files:
        raise UsageError(
            f"{path}: expected one folder of text files per label, found "
            f"{', '.join(sorted(p.name for p in path.iterdir())[:6]) or 'nothing'}"
        )
    encodings, notes = _encodings_of_files([file for _, file in files], source.encoding)
    unlabelled = [p.name for p in _list_visible(path) if p.name.lower() in UNLABELLED_FOLDERS]
    if unlabelled:
        notes = (
            *notes,
            f"{path.name}: left out, since its texts have no label: folder "
            f"{', '.join(map(repr, unlabelled))}.",
        )
    rows = DiskBackedList[list[str | None]](
        [
            read_text_file(file, encodings.get(file, source.encoding)),
            label,
            f"{label}/{file.name}",
        ]
        for label, file in files
    )
    locations = [f"{label}/{file.name}" for label, file in files]
    return Table(path.name, ["text", "label", "file"], rows, locations, notes=notes)


def _encodings_of_files(
    files: Sequence[Path], expected: str
) -> tuple[dict[Path, str], tuple[str, ...]]:
    """The encodings of the files that are not UTF-8, where UTF-8 is expected, and a note of them.

    A folder of texts is often written by several programs. One file may be too short to tell its
    encoding, so the files that are not UTF-8 are judged together.
    """
    if expected.lower().replace("_", "-") not in ("utf-8", "utf8"):
        return {}, ()
    others = [file for file in files if not decodes(file, "utf-8")]
    others = [file for file in others if b"\0" not in file.read_bytes()]  # refused as binary
    if not others:
        return {}, ()
    # Together, since a single short file is too little to tell encodings apart.
    guess = detect_encoding(b"\n".join(file.read_bytes() for file in others))
    shown = ", ".join(f"{file.parent.name}/{file.name}" for file in others[:3])
    more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
    note = (
        f"{len(others):,} of {len(files):,} files {'is' if len(others) == 1 else 'are'} not "
        f"UTF-8, and read as {guess.encoding}: {shown}{more}. data.encoding reads all files in "
        "one encoding."
    )
    return dict.fromkeys(others, guess.encoding), (note,)


def _files_by_label(path: Path) -> Iterator[tuple[str, Path]]:
    for folder in _list_visible(path):
        if not folder.is_dir() or folder.name.lower() in UNLABELLED_FOLDERS:
            continue
        for file in _list_visible(folder):
            if file.is_dir():
                raise UsageError(
                    f"{file} is a folder inside the folder of a label. Is {folder} the folder to "
                    "name in the recipe? It must contain one folder per label, with text files "
                    "only"
                )
            yield folder.name, file


def _list_visible(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and not is_system_file(p.name)
    )
