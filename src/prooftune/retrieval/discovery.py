"""The files of a document collection: a file, a folder, a glob pattern, a zip archive, or several
of these."""

from __future__ import annotations

import glob
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from prooftune.data.readers.encoding import missing_file
from prooftune.errors import UsageError
from prooftune.retrieval.types import SkippedDocument

FILE_TYPES = {
    ".pdf": "pdf",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".json": "json",
    ".jsonl": "jsonl",
}
"""File endings, and how such a file is read."""

MAX_DOCUMENT_BYTES = 512_000_000
"""Bytes of the largest document; a member of an archive that says or turns out to be larger is not
unpacked."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A document that has not been read yet.

    Attributes:
        id: the path below the source, with slashes.
        path: of the file on disk that it is, or is in.
        read: its bytes.
    """

    id: str
    path: Path
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        return PurePosixPath(self.id).name

    @property
    def kind(self) -> str:
        return FILE_TYPES[PurePosixPath(self.id).suffix.lower()]


class UnreadableDocument(Exception):
    """A document cannot be read; the others can. Its text is the reason, for a person."""


def content_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def find_documents(
    source: str | Path | Sequence[str | Path], base: Path
) -> tuple[list[SourceFile], list[SkippedDocument]]:
    """The documents of a source, in the order of their ids, and what was found and is none.

    Hidden files, ``__MACOSX`` and ``._`` files are no documents and are not listed.

    Args:
        source: a file, folder, zip archive or glob pattern, or a list of these.
        base: the folder that relative paths start from.

    Raises:
        UsageError: nothing is there, or two documents have the same path below their sources.
    """
    files: list[SourceFile] = []
    skipped: list[SkippedDocument] = []
    for one in [source] if isinstance(source, str | Path) else source:
        for path, id_ in _paths(str(one), base):
            if path.suffix.lower() == ".zip":
                # The members of an archive that is the source itself lie directly below the source.
                found, refused = _members(
                    path, "" if path == base / Path(one).expanduser() else f"{id_}/"
                )
                files += found
                skipped += refused
            elif path.suffix.lower() in FILE_TYPES:
                files.append(SourceFile(id_, path, _reader(path)))
            else:
                skipped.append(SkippedDocument(id_, _unknown(id_)))
    files.sort(key=lambda file: file.id)
    for a, b in pairwise(files):
        if a.id == b.id:
            raise UsageError(
                f"two documents are called {a.id}: in {a.path} and in {b.path}. Name the folder "
                "above both instead"
            )
    return files, skipped


def _paths(source: str, base: Path) -> Iterator[tuple[Path, str]]:
    """Path and id of every file that is not hidden."""
    place = base / Path(source).expanduser()
    if place.is_file():
        yield place, place.name
        return
    if place.is_dir():
        root, found = place, sorted(place.rglob("*"))
    elif any(c in source for c in "*?["):
        root = Path(*_fixed(place))
        found = sorted(Path(p) for p in glob.glob(str(place), recursive=True))  # noqa: PTH207 - place may be absolute
    else:
        raise missing_file(place)
    for path in found:
        relative = path.relative_to(root)
        if path.is_file() and not _is_junk(relative.parts):
            yield path, relative.as_posix()


def _fixed(pattern: Path) -> list[str]:
    """The folders before the first one with a wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if any(c in part for c in "*?["):
            break
        parts.append(part)
    return parts


def _is_junk(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _unknown(id_: str) -> str:
    ending = PurePosixPath(id_).suffix
    return (
        f"{f'files that end in {ending}' if ending else 'files without an ending'} are not "
        f"read; {' '.join(FILE_TYPES)} .zip are"
    )


def _reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            if path.stat().st_size > MAX_DOCUMENT_BYTES:
                raise UnreadableDocument(f"larger than {MAX_DOCUMENT_BYTES // 1_000_000} MB")
            return path.read_bytes()
        except OSError as error:
            raise UnreadableDocument(f"cannot be opened: {error.strerror or error}") from None

    return read


def _members(archive: Path, prefix: str) -> tuple[list[SourceFile], list[SkippedDocument]]:
    """The documents in a zip archive. They are read in memory: nothing is ever unpacked to disk."""
    files, skipped = [], []
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return [], [
            SkippedDocument(
                prefix.rstrip("/") or archive.name, f"not a zip archive that can be opened: {error}"
            )
        ]
    for info in infos:
        path = PurePosixPath(info.filename.replace("\\", "/"))
        id_ = f"{prefix}{path}"
        if path.is_absolute() or ".." in path.parts:
            skipped.append(SkippedDocument(id_, "its path leads outside the archive"))
        elif _is_junk(path.parts):
            continue
        elif path.suffix.lower() not in FILE_TYPES:
            skipped.append(SkippedDocument(id_, _unknown(id_)))
        elif info.flag_bits & 1:
            skipped.append(
                SkippedDocument(id_, "encrypted in its archive: unpack it with its password first")
            )
        else:
            files.append(SourceFile(id_, archive, _member(archive, info.filename)))
    return files, skipped


def _member(archive: Path, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(name) as handle:
                # What the archive says of a size may be a lie.
                content = handle.read(MAX_DOCUMENT_BYTES + 1)
        except (
            NotImplementedError
        ):  # what zipfile raises for a compression that Python does not know
            raise UnreadableDocument(
                "compressed in its archive in a way that Python cannot undo: unpack the archive "
                "first"
            ) from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError) as error:
            raise UnreadableDocument(f"damaged in its archive: {error}") from None
        if len(content) > MAX_DOCUMENT_BYTES:
            raise UnreadableDocument(f"larger than {MAX_DOCUMENT_BYTES // 1_000_000} MB")
        return content

    return read
