"""Inputs and outputs in object storage: downloaded before the prediction, uploaded after it.

In between, everything works on local copies in the cache, including checkpoints.
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


def is_remote(location: str | Path) -> bool:
    """Whether a location is a URL other than ``file://``."""
    return isinstance(location, str) and "://" in location and not location.startswith("file://")


def path_of(location: str | Path) -> Path:
    """The path of a file, or the path part of its URL."""
    if isinstance(location, str) and "://" in location:
        parts = urlsplit(location)
        return Path(unquote(parts.path) or parts.netloc)
    return Path(location)


def display_name(location: str | Path) -> str:
    """A location for messages: URLs without password and query, which may contain keys."""
    return redact(str(location).split("?")[0]) if is_remote(location) else str(location)


def local_copy(location: str | Path, folder: Path) -> Path:
    """The local file, or the path of a remote file's copy in `folder`."""
    return folder / path_of(location).name if is_remote(location) else path_of(location)


def cache_folder_for(out: str | Path, file: str | Path) -> Path:
    """The cache folder of local copies; the same command finds it again after an interruption."""
    return cache_folder() / "predict" / fingerprint([str(out), str(file)])[:16]


def is_same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two locations are the same file."""
    if is_remote(first) or is_remote(second):
        return str(first) == str(second)
    first_path, second_path = path_of(first), path_of(second)
    return first_path.exists() and second_path.exists() and first_path.samefile(second_path)


def download(url: str, path: Path) -> None:
    """Download a file, unless `path` has the same size and modification time.

    Raises:
        UsageError: there is no such file, or the URL's scheme is unknown.
        Failure: the download failed.
    """
    import pyarrow.fs as fs

    with _explain_errors(url):
        system, path_in_storage = open_storage(url)
        info = system.get_file_info(path_in_storage)
        if info.type != fs.FileType.File:
            raise UsageError(f"{display_name(url)}: no such file")
        status = path.stat() if path.is_file() else None
        modified = info.mtime_ns or 0
        if status is not None and (status.st_size, status.st_mtime_ns) == (info.size, modified):
            return
        with atomic_path(path) as temporary:
            with (
                # By default pyarrow decompresses by suffix, and the size would not be that of the
                # remote file.
                system.open_input_stream(path_in_storage, compression=None) as source,
                temporary.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 22)
            # Keep the remote modification time, by which a later run recognizes an unchanged file.
            os.utime(temporary, ns=(modified, modified))


def upload(path: Path, url: str) -> None:
    """Upload a finished file; it appears complete or not at all.

    Raises:
        UsageError: the URL's scheme is unknown.
        Failure: the upload failed.
    """
    import pyarrow.fs as fs

    with _explain_errors(url):
        system, path_in_storage = open_storage(url)
        fs.copy_files(
            str(path),
            path_in_storage,
            source_filesystem=fs.LocalFileSystem(),
            destination_filesystem=system,
            chunk_size=1 << 22,
            use_threads=False,
        )


def open_storage(url: str) -> tuple[Any, str]:
    import pyarrow as pa
    import pyarrow.fs as fs

    try:
        return fs.FileSystem.from_uri(url)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, ValueError) as error:
        raise UsageError(f"{display_name(url)}: {redact(str(error)).splitlines()[0]}") from None


@contextlib.contextmanager
def _explain_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"{display_name(url)}: {redact(str(error)).splitlines()[0]}") from error
