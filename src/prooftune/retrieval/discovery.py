"""Finds the files of a collection: a file, folder, glob pattern, zip archive, or several."""

from __future__ import annotations

import glob
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from prooftune.errors import UsageError
from prooftune.retrieval.types import SkippedDocument
from prooftune.utils.files import is_system_file, missing_file

FILE_TYPES = {
    ".pdf": "pdf",
    **dict.fromkeys([".html", ".htm", ".xhtml"], "html"),
    **dict.fromkeys([".md", ".markdown"], "markdown"),
    **dict.fromkeys([".txt", ".text", ".rst", ".adoc"], "text"),
    ".json": "json",
    **dict.fromkeys([".jsonl", ".ndjson"], "jsonl"),
    ".docx": "word",
    ".pptx": "slides",
    **dict.fromkeys([".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"], "sheet"),
    **dict.fromkeys([".csv", ".tsv"], "table"),
    **dict.fromkeys([".odt", ".odp"], "opendocument"),
    ".epub": "epub",
    ".rtf": "rtf",
    **dict.fromkeys([".eml", ".mht", ".mhtml"], "mail"),
    ".mbox": "mailbox",
    **dict.fromkeys([".doc", ".ppt"], "old"),
}
"""File extension -> file type; "old" is Office's binary format, under whose names there are RTF and
HTML documents too."""

_WAYS_OUT = {
    ".msg": "Outlook's own format: save the mail as .eml",
    **dict.fromkeys(
        [".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"], "an archive: unpack it first"
    ),
    **dict.fromkeys(
        [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"],
        "an image: make a PDF with a text layer of it (for example with ocrmypdf)",
    ),
    **dict.fromkeys([".pages", ".numbers", ".key"], "an iWork document: export it as PDF"),
    **dict.fromkeys([".mobi", ".azw", ".azw3"], "a Kindle book: convert it to .epub"),
}
"""File extension -> what it is and what to do."""

MAX_DOCUMENT_BYTES = 512_000_000
"""Maximum bytes of a document, also of an archive member while it is decompressed."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A document that is not read yet.

    Attributes:
        id: path relative to the source, with slashes.
        path: the file on disk, or the archive that contains it.
        read: returns its bytes.
    """

    id: str
    path: Path
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        return PurePosixPath(self.id).name

    @property
    def file_type(self) -> str:
        return FILE_TYPES[PurePosixPath(self.id).suffix.lower()]


class UnreadableDocument(Exception):
    """A document cannot be read; the message is the reason, for the user."""


def content_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def find_documents(
    source: str | Path | Sequence[str | Path], base: Path, exclude: Collection[Path] = ()
) -> tuple[list[SourceFile], list[SkippedDocument]]:
    """The documents of a source ordered by id, and the files that are skipped.

    Hidden files, ``__MACOSX`` and ``._`` files are ignored; lock files of Office and system files
    are skipped as one item with their number.

    Args:
        source: a file, folder, zip archive or glob pattern, or a list of these.
        base: folder that relative paths are relative to.
        exclude: absolute paths of files that are skipped: the questions and answers of a study.

    Raises:
        UsageError: the source does not exist, or two documents have the same id.
    """
    files: list[SourceFile] = []
    skipped: list[SkippedDocument] = []
    system: list[str] = []
    for item in [source] if isinstance(source, str | Path) else source:
        for path, id_ in _visible_files(str(item), base):
            if exclude and path.resolve() in exclude:
                skipped.append(SkippedDocument(id_, "it holds the data of the study"))
            elif path.suffix.lower() == ".zip":
                # If the archive itself is the source, ids are relative to the archive.
                members, skipped_members = _archive_members(
                    path, "" if path == base / Path(item).expanduser() else f"{id_}/"
                )
                files += members
                skipped += skipped_members
            elif is_system_file(path.name):
                system.append(id_)
            elif path.suffix.lower() in FILE_TYPES:
                files.append(SourceFile(id_, path, _file_reader(path)))
            else:
                skipped.append(SkippedDocument(id_, _unsupported(id_)))
    if system:
        skipped.append(SkippedDocument(_list_ids(system), f"lock and system files: {len(system)}"))
    # Sorted, equal ids are neighbours.
    files.sort(key=lambda file: file.id)
    for a, b in pairwise(files):
        if a.id == b.id:
            raise UsageError(
                f"two documents have the path {a.id}: in {a.path} and in {b.path}. Use their "
                "common parent folder as the source"
            )
    return files, skipped


def _list_ids(ids: Sequence[str]) -> str:
    return ", ".join(sorted(ids)[:3]) + (" …" if len(ids) > 3 else "")


def _visible_files(source: str, base: Path) -> Iterator[tuple[Path, str]]:
    """Path and id of every visible file."""
    pattern = base / Path(source).expanduser()
    if pattern.is_file():
        yield pattern, pattern.name
        return
    if pattern.is_dir():
        root, paths = pattern, sorted(pattern.rglob("*"))
    elif any(c in source for c in "*?["):
        root = Path(*_fixed_components(pattern))
        # Path.glob refuses absolute patterns.
        paths = sorted(Path(p) for p in glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    else:
        raise missing_file(pattern)
    for path in paths:
        relative = path.relative_to(root)
        if path.is_file() and not _is_hidden(relative.parts):
            yield path, relative.as_posix()


def _fixed_components(pattern: Path) -> list[str]:
    """The path components before the first wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if any(c in part for c in "*?["):
            break
        parts.append(part)
    return parts


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _unsupported(id_: str) -> str:
    extension = PurePosixPath(id_).suffix
    known = _WAYS_OUT.get(extension.lower())
    return known or (
        f"unsupported file type {extension or '(no extension)'}; supported: "
        f"{' '.join(name for name, type_ in FILE_TYPES.items() if type_ != 'old')} .zip"
    )


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            if path.stat().st_size > MAX_DOCUMENT_BYTES:
                raise UnreadableDocument(f"larger than {MAX_DOCUMENT_BYTES // 1_000_000} MB")
            return path.read_bytes()
        except OSError as error:
            raise UnreadableDocument(f"cannot be opened: {error.strerror or error}") from None

    return read


def _archive_members(archive: Path, prefix: str) -> tuple[list[SourceFile], list[SkippedDocument]]:
    """The documents in a zip archive, read in memory: nothing is unpacked to disk."""
    files, skipped = [], []
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        return [], [
            SkippedDocument(
                prefix.rstrip("/") or archive.name, f"not a readable zip archive: {error}"
            )
        ]
    for info in infos:
        # Some Windows programs write backslashes into archives.
        path = PurePosixPath(info.filename.replace("\\", "/"))
        id_ = f"{prefix}{path}"
        # Nothing is unpacked, but ids are shown and cited as paths.
        if path.is_absolute() or ".." in path.parts:
            skipped.append(SkippedDocument(id_, "its path points outside the archive"))
        elif _is_hidden(path.parts) or is_system_file(path.name):
            continue
        elif path.suffix.lower() not in FILE_TYPES:
            skipped.append(SkippedDocument(id_, _unsupported(id_)))
        elif info.flag_bits & 1:
            skipped.append(
                SkippedDocument(id_, "encrypted in the archive: unpack it with its password first")
            )
        else:
            files.append(SourceFile(id_, archive, _member_reader(archive, info.filename)))
    return files, skipped


def _member_reader(archive: Path, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(name) as handle:
                # The size in the archive's header may be wrong.
                content = handle.read(MAX_DOCUMENT_BYTES + 1)
        except NotImplementedError:  # zipfile raises it for unknown compression methods
            raise UnreadableDocument(
                "compressed in the archive with an unsupported method: unpack the archive first"
            ) from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError) as error:
            raise UnreadableDocument(f"damaged in the archive: {error}") from None
        if len(content) > MAX_DOCUMENT_BYTES:
            raise UnreadableDocument(f"larger than {MAX_DOCUMENT_BYTES // 1_000_000} MB")
        return content

    return read
