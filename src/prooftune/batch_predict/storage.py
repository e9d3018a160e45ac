"""Inputs and outputs by URL of object storage: fetched before the work, stored after it.

In between stand ordinary files in the cache, so that whatever reads rows, notes parts and resumes
knows files alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prooftune.errors import Failure, UsageError
from prooftune.utils.files import atomic_path, cache_folder, fingerprint
from prooftune.utils.secrets import redact


def is_remote(place: str | Path) -> bool:
    """Whether a place is a URL of anything but this machine's files."""
    return isinstance(place, str) and "://" in place and not place.startswith("file://")


def name_of(place: str | Path) -> Path:
    """The path of a file, or the one in its URL."""
    if isinstance(place, str) and "://" in place:
        parts = urlsplit(place)
        return Path(unquote(parts.path) or parts.netloc)
    return Path(place)


def shown(place: str | Path) -> str:
    """A place as messages name it: of a URL neither the password nor the options, which may hold
    keys."""
    return redact(str(place).split("?")[0]) if is_remote(place) else str(place)


def file_of(place: str | Path, folder: Path) -> Path:
    """The file that a place is or, of a remote one, its copy in `folder`."""
    return folder / name_of(place).name if is_remote(place) else name_of(place)


def folder_of(out: str | Path, file: str | Path) -> Path:
    """Where copies are kept until the output is stored; the same command finds them again."""
    return cache_folder() / "predict" / fingerprint([str(out), str(file)])[:16]


def same(a: str | Path, b: str | Path) -> bool:
    """Whether two places are one file."""
    if is_remote(a) or is_remote(b):
        return str(a) == str(b)
    first, second = name_of(a), name_of(b)
    return first.exists() and second.exists() and first.samefile(second)


def fetch(url: str, path: Path) -> None:
    """Copy what a URL names to `path`, unless it is there with the same size and time of change.

    Raises:
        UsageError: the URL names no file, or its kind of storage is unknown.
        Failure: the storage did not deliver.
    """
    import pyarrow.fs as fs

    with _explained(url):
        system, inside = _storage(url)
        found = system.get_file_info(inside)
        if found.type != fs.FileType.File:
            raise UsageError(f"{shown(url)}: no such file")
        status = path.stat() if path.is_file() else None
        changed = found.mtime_ns or 0
        if status is not None and (status.st_size, status.st_mtime_ns) == (found.size, changed):
            return
        with atomic_path(path) as temporary:
            with (
                system.open_input_stream(inside, compression=None) as source,
                temporary.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 22)
            # The time is the original's: from it and the size a later run sees that nothing
            # changed.
            os.utime(temporary, ns=(changed, changed))


def store(path: Path, url: str) -> None:
    """Copy a finished file to a URL, where it appears at once or not at all.

    Raises:
        UsageError: the kind of storage is unknown.
        Failure: the storage did not take it.
    """
    import pyarrow.fs as fs

    with _explained(url):
        system, inside = _storage(url)
        fs.copy_files(
            str(path),
            inside,
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=system,
            chunk_size=1 << 22,
            use_threads=False,
        )


def _storage(url: str) -> tuple[Any, str]:
    import pyarrow as pa
    import pyarrow.fs as fs

    try:
        return fs.FileSystem.from_uri(url)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, ValueError) as error:
        raise UsageError(f"{shown(url)}: {redact(str(error)).splitlines()[0]}") from None


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"{shown(url)}: {redact(str(error)).splitlines()[0]}") from error
