"""Compressed files, unpacked once into the cache so that every reader sees a plain file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from prooftune.errors import UsageError
from prooftune.utils.files import atomic_path, cache_folder, fingerprint

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".zstd")
_ZIP = b"PK\x03\x04"
_OFFICE = ("[Content_Types].xml", "mimetype")
"""Members by which office documents, which are zip archives too, are known."""
_RESERVE = 1 << 30
"""Bytes of free disk that unpacking leaves alone."""
_CHUNK = 1 << 20
_MAX_DEPTH = 3
"""Archives in archives that are opened."""


def uncompressed(path: Path) -> Path:
    """The file itself, or its unpacked content in the cache.

    gzip, bzip2, xz and zstd are known by their first bytes, whatever the name. Of a zip archive
    the only data file is taken; `ARCHIVE.zip#MEMBER` names one of several. The unpacked file keeps
    its inner name (``reviews.csv.gz`` -> ``reviews.csv``), by which its format is found.

    Raises:
        UsageError: the archive is damaged, holds several files, or does not fit on the disk.
    """
    unpacked = _uncompressed(path)
    # Compressed files are compressed again by some download pages: a.csv.gz in a zip archive.
    for _ in range(_MAX_DEPTH):
        inner = _uncompressed(unpacked) if unpacked != path else unpacked
        if inner == unpacked:
            break
        unpacked = inner
    return unpacked


@contextlib.contextmanager
def named_as(path: Path, unpacked: Path) -> Iterator[None]:
    """Name the compressed file in messages about its unpacked content.

    Raises:
        UsageError: as the block does.
    """
    try:
        yield
    except UsageError as error:
        if unpacked == path or str(unpacked) not in str(error):
            raise
        named = str(error).replace(str(unpacked), f"{path} (unpacked: {unpacked.name})")
        raise type(error)(named) from None


def _uncompressed(path: Path) -> Path:
    archive, _, member = _split(path)
    if not archive.is_file():
        return path
    with archive.open("rb") as handle:
        start = handle.read(8)
    kind = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if kind is not None:
        return _unpacked(archive, _inner_name(archive), lambda: _opened(archive, kind))
    # xlsx and ods are zip archives too, but the spreadsheet reader opens those.
    if start.startswith(_ZIP) and not _is_office_document(archive):
        return _zip_member(archive, member)
    return path


def archive_of(path: Path) -> Path:
    """The file on disk: the archive of ``ARCHIVE.zip#MEMBER``, else the path itself."""
    return _split(path)[0]


def is_compressed_name(name: str) -> bool:
    """Whether a file name ends with the suffix of a compression format."""
    return name.lower().endswith((*_SUFFIXES, ".zip"))


def _split(path: Path) -> tuple[Path, str, str]:
    # Not `path.name`: a member's path holds slashes, which `Path` takes for folders.
    text = str(path)
    if ".zip#" not in text:
        return path, "", ""
    archive, mark, member = text.partition(".zip#")
    return Path(archive + ".zip"), mark, member


def _inner_name(path: Path) -> str:
    return path.stem if path.name.lower().endswith(_SUFFIXES) else path.name


def _opened(path: Path, kind: str) -> Any:
    if kind == "gzip":
        return gzip.open(path)
    if kind == "bzip2":
        return bz2.open(path)
    if kind == "xz":
        return lzma.open(path)
    import pyarrow as pa

    # pyarrow has zstd built in; Python's own module for it comes with 3.14.
    return pa.input_stream(str(path), compression="zstd")


def _is_office_document(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name in archive.namelist() for name in _OFFICE)
    except zipfile.BadZipFile:
        return False


def _zip_member(path: Path, member: str) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                info.filename
                for info in archive.infolist()
                if not info.is_dir() and _is_data(info.filename)
            ]
            if member and member not in archive.namelist():
                raise UsageError(
                    f"{path} holds no '{member}'; it holds {', '.join(members[:8]) or 'no file'}"
                )
            if not member and len(members) != 1:
                raise UsageError(
                    f"{path} holds {len(members)} files ({', '.join(members[:8])}"
                    f"{' …' if len(members) > 8 else ''}): name one, as in "
                    f"{path.name}#{members[0] if members else 'FILE'}; 'prooftune index' reads an "
                    "archive of documents"
                )
            name = member or members[0]
            # Bit 0 of the flags marks an encrypted member.
            if archive.getinfo(name).flag_bits & 1:
                raise UsageError(f"{path}: '{name}' is encrypted; unpack it with its password")
            return _unpacked(path, name, lambda: archive.open(name))
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path} is a damaged zip archive: {error}") from None


def _is_data(name: str) -> bool:
    """Not one of the files that macOS and editors add."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not parts[-1].startswith(".")


def _unpacked(path: Path, name: str, open_: Callable[[], Any]) -> Path:
    stat = path.stat()
    # Size and modification time instead of a digest: hashing a large archive at every load is slow.
    key = fingerprint([str(path.resolve()), stat.st_size, stat.st_mtime_ns, name])
    target = cache_folder() / "unpacked" / key / PurePosixPath(name).name
    # Written atomically below, so a file that is there is whole.
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(target) as temporary, open_() as source, temporary.open("wb") as out:
            while chunk := source.read(_CHUNK):
                # The size in a header can be wrong (or a zip bomb), so check the free space while
                # writing.
                out.write(chunk)
                if shutil.disk_usage(target.parent).free < _RESERVE:
                    raise UsageError(
                        f"{path}: its content does not fit on the disk of {target.parent} (set "
                        "PROOFTUNE_CACHE to a folder on a larger one)"
                    )
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged or not whole: {error}") from None
    return target
