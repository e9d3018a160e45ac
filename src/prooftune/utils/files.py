"""Atomic file writes: a kill at any moment leaves the old file or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prooftune.errors import Failure, UsageError, nearest

_SYSTEM_FILE = re.compile(
    r"~\$.*|~.*\.tmp|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|__macosx", re.IGNORECASE
)


def is_system_file(name: str) -> bool:
    """Whether a file name is that of an office program's lock file, or of what Windows and macOS
    put into folders."""
    return _SYSTEM_FILE.fullmatch(name) is not None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, and rename it over `path` when the block succeeds.

    Works for files and folders (the block creates the folder). On an exception the temporary is
    removed and `path` is unchanged.

    Raises:
        Failure: the disk is full or `path` cannot be written.
    """
    temporary = _sibling(path)
    try:
        yield temporary
        _rename_over(temporary, path)
    except OSError as error:
        if _is_about(error, temporary, path):
            raise _write_failure(error, path) from error
        raise
    finally:
        _remove(temporary)


@contextlib.contextmanager
def explain_full_disk(folder: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn a library's own exceptions for a full disk into a `Failure`.

    Args:
        folder: where the library writes.
        kinds: the exceptions that it raises.
    """
    try:
        yield
    except kinds as error:
        reason = os.strerror(errno.ENOSPC)
        # torch reports a truncated file only, so the free space has to be checked.
        if reason in str(error) or shutil.disk_usage(_existing_parent(folder)).free < 1_000_000:
            raise _write_failure(OSError(errno.ENOSPC, reason), folder) from error
        raise


def _sibling(path: Path) -> Path:
    """An unused path in the same folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename is atomic only within one file system.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        # Only the name is needed: the block decides whether it becomes a file or a folder.
        Path(name).unlink()
    except OSError as error:
        raise _write_failure(error, path) from error
    return Path(name)


def _rename_over(temporary: Path, path: Path) -> None:
    """Rename over `path`. An existing folder cannot be renamed over, so it is moved away first."""
    _apply_umask(temporary)
    if temporary.is_file():
        with temporary.open("rb") as handle:
            # Otherwise a power failure after the rename could leave an empty file under the final
            # name.
            os.fsync(handle.fileno())
    if not path.is_dir() or path.is_symlink():
        temporary.replace(path)
        return
    # The two renames are not atomic together: a kill between them leaves the old folder under the
    # temporary name.
    aside = temporary.with_suffix(".old.tmp")
    path.replace(aside)
    temporary.replace(path)
    _remove(aside)


# The umask can only be read by setting it, which is unsafe once threads run: read it on import.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def _apply_umask(path: Path) -> None:
    """Give files the umask's permissions.

    Libraries that write through a temporary file (safetensors) make it readable for the owner only,
    so a server under another user could not read a bundle.
    """
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink() and not file.stat().st_mode & 0o077:
            file.chmod(file.stat().st_mode | 0o666 & ~_UMASK)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def _is_about(error: OSError, temporary: Path, path: Path) -> bool:
    """Whether an error is about writing `path`, and not about another file or a download."""
    names = {str(temporary), str(path)}
    failed = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    return error.errno in _DISK_ERRORS or (
        failed is not None and not names.isdisjoint(map(str, (failed, *failed.parents)))
    )


def _write_failure(error: OSError, path: Path) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing_parent(path)).free
        return Failure(
            f"the disk is full: cannot write {path} ({free / 1e6:.0f} MB free). Free some space "
            "and run the same command again; finished stages are kept."
        )
    return Failure(f"cannot write {path}: {error.strerror or error}")


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON. NaN and infinity raise ValueError: JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON-ready value, as hex, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Cache of downloaded packages, converted models and compiled code: ``$PROOFTUNE_CACHE``, or
    ``~/.cache/prooftune``."""
    return Path(os.environ.get("PROOFTUNE_CACHE") or Path.home() / ".cache" / "prooftune")


class MissingFile(UsageError):
    """A data file that does not exist."""


def missing_file(path: Path) -> MissingFile:
    """Return the error for a path that does not exist, with the nearest name that does."""
    folder = path.parent
    if not folder.is_dir():
        return MissingFile(f"{path}: no such file (the folder {folder} does not exist either)")
    return MissingFile(
        f"{path}: no such file{nearest(path.name, [p.name for p in folder.iterdir()])}"
    )
