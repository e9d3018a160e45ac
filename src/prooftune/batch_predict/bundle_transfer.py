"""A bundle on a machine that does not have it: its files, copied once into that machine's cache."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from prooftune.utils.files import cache_folder, fingerprint, sha256


def list_files(bundle: Path) -> list[str]:
    """Names of the files in a bundle's folder, with ``/``, in order."""
    return sorted(
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()
    )


def bundle_digest(bundle: Path) -> str:
    """Fingerprint of what a bundle's answers depend on."""
    return fingerprint(
        [
            [name, sha256(bundle / name)]
            for name in list_files(bundle)
            if Path(name).name != "README.md"
        ]
    )


def copy_to_cache(digest: str, files: Mapping[str, Callable[[], bytes]]) -> Path:
    """The folder in the cache that holds a bundle, filled where it is not there yet.

    Args:
        digest: the bundle's `bundle_digest`.
        files: name -> what gives its content, asked for one after the other.
    """
    target = cache_folder() / "bundles" / digest[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        here = Path(folder) / "bundle"
        for name, content in files.items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content())
        # Another worker of this machine may have been faster, and is using what it put there.
        with contextlib.suppress(OSError):
            here.rename(target)
    return target
