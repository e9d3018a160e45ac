"""What kind of file this is, and its text in the right encoding."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from prooftune.data.readers import arrow, spreadsheet, sqlite
from prooftune.data.readers.table import MAX_FIELD_CHARS, iter_stream_lines
from prooftune.errors import UsageError, nearest

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    **dict.fromkeys(arrow.SUFFIXES, "arrow"),
    **dict.fromkeys(spreadsheet.SUFFIXES, "spreadsheet"),
    **dict.fromkeys(sqlite.SUFFIXES, "sqlite"),
}
_PARQUET = b"PAR1"
_BINARY_FORMATS = {_PARQUET: "parquet", b"ARROW1": "arrow", sqlite.MAGIC[:8]: "sqlite"}
"""First bytes of formats that are read whatever the file is called."""
_OTHERS = {
    b"PK\x03\x04": "a zip archive or an office document: set data.format: spreadsheet if it is a "
    "spreadsheet, or save its text as CSV",
    b"\xd0\xcf\x11\xe0": "an old office document: set data.format: spreadsheet if it is a "
    "spreadsheet, or save its text as CSV",
    b"%PDF": (
        "a PDF: copy its text into a CSV file; to search it, or to answer questions with it, "
        "see 'prooftune index'"
    ),
    _PARQUET: "a Parquet file: set data.format: parquet",
}
"""How files that are no text begin, and what to do with them."""


def has_table_suffix(path: Path) -> bool:
    """Whether a file's name says that it holds rows."""
    return path.suffix.lower() in _FORMATS and path.is_file()


def detect_format(path: Path) -> str:
    """The format that a file's name or content stands for.

    Raises:
        UsageError: neither tells.
    """
    if path.is_dir():
        return "folders"
    known = _FORMATS.get(path.suffix.lower())
    if known:
        return known
    if not path.exists():
        raise missing_file(path)
    start = _start(path)
    for magic, format_ in _BINARY_FORMATS.items():
        if start.startswith(magic):
            return format_
    _refuse_other(path, start)
    raise UsageError(
        f"{path}: the name does not tell the format. Set data.format to csv (also for other "
        "separators, with "
        "data.delimiter), json, jsonl, parquet, or text (one 'text<delimiter>label' a line)"
    )


class MissingFile(UsageError):
    """A file that is not there."""


def missing_file(path: Path) -> MissingFile:
    """The error for a path that does not exist, with the nearest name that does."""
    folder = path.parent
    if not folder.is_dir():
        return MissingFile(f"{path}: no such file (the folder {folder} does not exist either)")
    return MissingFile(
        f"{path}: no such file{nearest(path.name, [p.name for p in folder.iterdir()])}"
    )


def check_readable(path: Path) -> None:
    """Refuse what is no file with something in it.

    Raises:
        UsageError: it is missing, a folder, or empty.
    """
    if not path.exists():
        raise missing_file(path)
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a file. For one folder of text files per label, set "
            "data.format: folders"
        )
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty (0 bytes)")


def read_text_file(path: Path, encoding: str) -> str:
    """The file's text, without a byte-order mark.

    Raises:
        UsageError: it is binary, or not in this encoding (with the line, and an encoding that
            fits).
    """
    with open_text(path, encoding, newline="") as stream:
        return stream.read()


@contextlib.contextmanager
def open_text(path: Path, encoding: str, newline: str) -> Iterator[TextIO]:
    """The file's text as a stream, without a byte-order mark; `newline` as for `open`: ``""`` or
    ``"\\n"``.

    Raises:
        UsageError: it is binary, or not in this encoding (with the line, and an encoding that
            fits): at once or, where that shows later in the file, when the stream gets there.
    """
    _refuse_binary(path, encoding)
    try:
        stream = path.open(encoding=encoding, newline=newline)
    except LookupError:
        # Python also lists encodings from bytes to bytes.
        raise UsageError(f"data.encoding: '{encoding}' is no encoding of text") from None
    with stream:
        try:
            if stream.read(1) != "\ufeff":
                stream.seek(0)
            yield stream
        except UnicodeDecodeError:
            _refuse_undecodable(path, encoding)
            raise


def iter_lines(
    path: Path, encoding: str, newline: str, longest: int = MAX_FIELD_CHARS
) -> Iterator[str]:
    """The file's lines with their ends, one after another.

    Raises:
        UsageError: as for `text_of`; a line has more than `longest` characters.
    """
    with open_text(path, encoding, newline) as stream:
        yield from iter_stream_lines(path.name, stream, longest)


def _refuse_binary(path: Path, encoding: str) -> None:
    with path.open("rb") as handle:
        start = handle.read(65536)
    _refuse_other(path, start[:8])
    try:
        wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    except LookupError:
        raise UsageError(f"data.encoding: Python knows no encoding '{encoding}'") from None
    if b"\0" in start and not wide:
        hint = (
            " (UTF-16 text? Then set data.encoding: utf-16)"
            if start[:2] in (b"\xff\xfe", b"\xfe\xff")
            else ""
        )
        raise UsageError(f"{path} is a binary file, not text: it holds zero bytes{hint}")


def _refuse_undecodable(path: Path, encoding: str) -> None:
    """Find the byte that a stream stumbled over: its own error counts from somewhere within the
    file."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with path.open("rb") as handle:
        while True:
            chunk = handle.read(1 << 20)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise UsageError(
                    f"{path}:{line}: byte 0x{error.object[error.start]:02x} is not {encoding} "
                    "text. If the file is "
                    "Western European text from an older program, set data.encoding: iso-8859-1 "
                    "(or cp1252)"
                ) from None
            if not chunk:
                return
            line += chunk.count(b"\n")


def _start(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(8)


def _refuse_other(path: Path, start: bytes) -> None:
    for beginning, kind in _OTHERS.items():
        if start.startswith(beginning):
            raise UsageError(f"{path} is {kind}")
