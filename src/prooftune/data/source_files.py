"""The files of a recipe's sources: whether they are there, and digests of their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prooftune.data.readers.dispatch import file_of
from prooftune.data.readers.shards import expand_path
from prooftune.recipe import Data, Source
from prooftune.types import SPLITS, SplitName
from prooftune.utils import package_files
from prooftune.utils.files import missing_file, sha256


def check_source_exists(data: Data, split: SplitName, base: Path) -> None:
    """Look whether the local files of a split are there, without reading them.

    Raises:
        UsageError: a file is missing (`MissingFile`), or a pattern matches none.
    """
    check_files_exist(data.source(split), base)


def check_files_exist(source: Source, base: Path) -> None:
    """Look whether the local files of a source are there; raises as `check_source_exists`."""
    for name in source.paths:
        if package_files.is_reference(name) or name.startswith("hub:"):
            continue
        path = file_of(base / Path(name).expanduser())
        for file in expand_path(path, source.split):
            if not file.exists():
                raise missing_file(file)


def local_files(data: Data, base: Path) -> frozenset[Path]:
    """The files of all splits on this machine, as absolute paths."""
    files: set[Path] = set()
    for split in SPLITS:
        if getattr(data, split) is None:
            continue
        source = data.source(split)
        for name in source.paths:
            if not package_files.is_reference(name) and not name.startswith("hub:"):
                path = file_of(base / Path(name).expanduser())
                files.update(file.resolve() for file in expand_path(path, source.split))
    return frozenset(files)


def source_digest(data: Data, split: SplitName, base: Path) -> Any:
    """Return a JSON value that changes when the content of a split's source changes.

    None if there is no source. Package files and hub datasets are identified by name and version,
    which are part of the recipe.
    """
    if getattr(data, split) is None:
        return None
    return files_digest(data.source(split), base)


def files_digest(source: Source, base: Path) -> list[Any]:
    """As `source_digest`, of one source."""
    return [_path_digest(path, source.split, base) for path in source.paths]


def _path_digest(name: str, split: str | None, base: Path) -> Any:
    if package_files.is_reference(name) or name.startswith("hub:"):
        return None
    path = file_of(base / Path(name).expanduser())
    digests: list[Any] = []
    for file in expand_path(path, split):
        if file.is_file():
            digests.append(sha256(file))
        # A folder of texts: hashing a million files would take minutes before each run.
        digests += sorted(
            [str(p.relative_to(file)), p.stat().st_size, p.stat().st_mtime_ns]
            for p in file.rglob("*")
            if p.is_file()
        )
    return digests
