"""Format detection, and reading text in the right encoding."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from prooftune.data.readers import arrow, spreadsheet, sqlite
from prooftune.data.readers.foreign_formats import binary_format
from prooftune.data.readers.table import MAX_FIELD_CHARS, iter_stream_lines
from prooftune.errors import UsageError
from prooftune.utils.encoding_detection import mixes_utf_8
from prooftune.utils.files import missing_file

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
_LONGEST_POINTER = 1024
"""Bytes of a pointer that Git LFS leaves in the place of a file, at most."""
_PARQUET = b"PAR1"
# Eight bytes of SQLite's magic, as many as are read.
_BINARY_FORMATS = {_PARQUET: "parquet", b"ARROW1": "arrow", sqlite.MAGIC[:8]: "sqlite"}
"""First bytes of binary formats that are detected whatever the file name."""
_NOT_TEXT = {
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
"""First bytes of files that are not text -> what they are and what to do."""


def has_table_suffix(path: Path) -> bool:
    """Whether a path is a file with the suffix of a table format."""
    return path.suffix.lower() in _FORMATS and path.is_file()


def detect_format(path: Path) -> str:
    """Detect the format of a file from its name, else from its first bytes.

    Raises:
        UsageError: the file does not exist, or its format cannot be detected.
    """
    if path.is_dir():
        return "folders"
    by_suffix = _FORMATS.get(path.suffix.lower())
    if by_suffix:
        return by_suffix
    if not path.exists():
        raise missing_file(path)
    start = _first_bytes(path)
    for magic, format_ in _BINARY_FORMATS.items():
        if start.startswith(magic):
            return format_
    _check_text_magic(path, start)
    raise UnknownFormat(
        f"{path}: cannot detect the format from the name. Set data.format to csv (also for other "
        "separators, with data.delimiter), json, jsonl, parquet, or text (one "
        "'text<delimiter>label' per line)"
    )


class UnknownFormat(UsageError):
    """Neither name nor first bytes tell the format of a file."""


def check_readable(path: Path) -> None:
    """Check that a path is a file with content.

    Raises:
        UsageError: it is missing, a folder, or empty.
    """
    if not path.exists():
        raise missing_file(path)
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a file. If it contains one folder of text files per label, "
            "set data.format: folders"
        )
    if _first_bytes(path) == b"version " and path.stat().st_size < _LONGEST_POINTER:
        start = path.read_text("utf-8", "replace")
        if "git-lfs" in start:
            raise UsageError(
                f"{path} is a pointer of Git LFS and not the data: run git lfs pull in its folder"
            )
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty (0 bytes)")


def is_text(path: Path) -> bool:
    """Whether a file holds no zero bytes at its start, as text in most encodings."""
    with path.open("rb") as handle:
        return b"\0" not in handle.read(4096)


def read_text_file(path: Path, encoding: str) -> str:
    """Return the text of a file, without a byte-order mark.

    Raises:
        UsageError: the file is binary, or not in this encoding.
    """
    with open_text(path, encoding, newline="") as stream:
        return stream.read()


@contextlib.contextmanager
def open_text(path: Path, encoding: str, newline: str | None) -> Iterator[TextIO]:
    """Open a text file as a stream, without a byte-order mark.

    Args:
        path: the file.
        encoding: Python name of the encoding.
        newline: as for `open`: ``""`` or ``"\\n"``.

    Raises:
        UsageError: the file is binary, or not in this encoding; an invalid byte later in the file
            is reported when the stream reaches it.
    """
    _check_not_binary(path, encoding)
    try:
        stream = path.open(encoding=encoding, newline=newline)
    except LookupError:
        # A codec that converts bytes to bytes, such as base64.
        raise UsageError(f"data.encoding: '{encoding}' is not a text encoding") from None
    with stream:
        try:
            # Read through the codec: the mark has other bytes in every encoding.
            if stream.read(1) != "\ufeff":
                stream.seek(0)
            yield stream
        except UnicodeDecodeError:
            _raise_decode_error(path, encoding)
            raise


def iter_lines(
    path: Path, encoding: str, newline: str | None, longest: int = MAX_FIELD_CHARS
) -> Iterator[str]:
    """Yield the lines of a file with their line endings.

    Raises:
        UsageError: as for `open_text`, or a line has more than `longest` characters.
    """
    with open_text(path, encoding, newline) as stream:
        yield from iter_stream_lines(path.name, stream, longest)


def _check_not_binary(path: Path, encoding: str) -> None:
    with path.open("rb") as handle:
        start = handle.read(65536)
    _check_text_magic(path, start[:8])
    try:
        # UTF-16 and UTF-32 write ASCII with zero bytes, which mean a binary file elsewhere.
        has_zero_bytes = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    except LookupError:
        raise UsageError(f"data.encoding: unknown encoding '{encoding}'") from None
    if start[257:262] == b"ustar":
        raise UsageError(f"{path} is a tar archive: unpack it with tar -xf and name a file of it")
    known = binary_format(start)
    if known is not None and not has_zero_bytes:
        raise UsageError(f"{path} is {known}")
    if b"\0" in start and not has_zero_bytes:
        hint = (
            " (if it is UTF-16 text, set data.encoding: utf-16)"
            if start[:2] in (b"\xff\xfe", b"\xfe\xff")
            else ""
        )
        raise UsageError(f"{path} is a binary file, not text: it contains zero bytes{hint}")


def _raise_decode_error(path: Path, encoding: str) -> None:
    """Raise the error for the first invalid byte, with its line.

    The error of a stream gives the position in its current buffer only, so the file is decoded
    again.
    """
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with path.open("rb") as handle:
        while True:
            chunk = handle.read(1 << 20)
            try:
                decoder.decode(chunk, final=not chunk)
            # `object` is the chunk with what the decoder had left over from the one before.
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                problem = (
                    f"{path}:{line}: byte 0x{error.object[error.start]:02x} is not valid {encoding}"
                )
                if _is_damaged_utf8(path, encoding):
                    raise UsageError(
                        f"{problem}, though most characters of the file are: the line is damaged. "
                        f"Correct it, or leave out such bytes: iconv -c -f utf-8 -t utf-8 "
                        f"{path.name} > corrected{path.suffix}"
                    ) from None
                if codecs.lookup(encoding).name == "utf-8" and mixes_utf_8(path):
                    raise UsageError(
                        f"{problem}, and other lines are: files of two encodings were put "
                        "together. Convert the part that is not UTF-8 before they are, for "
                        "instance with iconv -f cp1252 -t utf-8"
                    ) from None
                raise UsageError(
                    f"{problem}. For Western European text from an older program, set "
                    "data.encoding: iso-8859-1 (or cp1252)"
                ) from None
            if not chunk:
                return
            line += chunk.count(b"\n")


def _is_damaged_utf8(path: Path, encoding: str) -> bool:
    """Whether a file is UTF-8 but for a few bytes: another encoding would garble the rest."""
    # Of other encodings nearly every byte sequence is valid, and counts would mean nothing.
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        return False
    valid = invalid = 0
    with path.open(encoding="utf-8", errors="replace", newline="") as handle:
        while text := handle.read(1 << 20):
            replaced = text.count("\ufffd")
            invalid += replaced
            valid += sum(1 for character in text if character > "\x7f") - replaced
    # By chance, hardly any sequence of two bytes of another encoding is valid UTF-8.
    return valid > 2 * invalid


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(8)


def _check_text_magic(path: Path, start: bytes) -> None:
    for magic, description in _NOT_TEXT.items():
        if start.startswith(magic):
            raise UsageError(f"{path} is {description}")
