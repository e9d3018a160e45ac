"""Copy a bundle to another machine's cache, once per content."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from prooftune.utils.files import cache_folder, fingerprint, sha256


def list_files(bundle: Path) -> list[str]:
    """Sorted paths of a bundle's files, relative to its folder, with ``/``."""
    return sorted(
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()
    )


def bundle_digest(bundle: Path) -> str:
    """Fingerprint of all files that affect a bundle's predictions."""
    return fingerprint(
        [
            [name, sha256(bundle / name)]
            for name in list_files(bundle)
            # The card has no effect on predictions.
            if Path(name).name != "README.md"
        ]
    )


def copy_to_cache(digest: str, files: Mapping[str, Callable[[], bytes]]) -> Path:
    """The bundle's folder in the cache; its files are fetched if it is not there yet.

    Args:
        digest: `bundle_digest` of the bundle.
        files: file name -> function that returns its content; called one after the other.
    """
    # Named by its content: a changed bundle gets a folder of its own.
    target = cache_folder() / "bundles" / digest[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staging = Path(folder) / "bundle"
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content())
        # Another worker on this machine may have copied the bundle meanwhile and be using it.
        with contextlib.suppress(OSError):
            staging.rename(target)
    return target
