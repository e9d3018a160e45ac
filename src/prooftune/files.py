"""Writing files so that a kill at any moment leaves either the old file or the new one, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prooftune.errors import Failure


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it over `path` when the block succeeds.

    Works for files and for folders (the block creates the folder). On any exception the temporary
    is removed and `path` is untouched.

    Raises:
        Failure: the disk is full or the place cannot be written, named with its path.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.unlink()
        yield temporary
        if temporary.is_file():
            _sync(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _explained(error: OSError, path: Path) -> Failure:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(_existing_parent(path)).free
        return Failure(f"the disk is full: cannot write {path} ({free / 1e6:.0f} MB free). Free some space and "
                       "run the same command again; finished stages are kept.")
    return Failure(f"cannot write {path}: {error.strerror or error}")


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; not-a-number is refused, so that any reader can parse it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hex digest of a JSON-ready value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder() -> Path:
    """Where fetched packages and converted models are kept: ``$PROOFTUNE_CACHE`` or ``~/.cache/prooftune``."""
    return Path(os.environ.get("PROOFTUNE_CACHE") or Path.home() / ".cache" / "prooftune")
