"""Reads a whole document collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument, find_documents
from prooftune.retrieval.readers import read_document
from prooftune.retrieval.types import Document, DocumentCollection, SkippedDocument


def read_documents(source: str | Path | Sequence[str | Path], base: Path) -> DocumentCollection:
    """Read every document of a file, folder, glob pattern or zip archive, or of a list of these.

    `discovery.FILE_TYPES` has the supported formats. Unreadable documents are listed with the
    reason, and the others are read.

    Args:
        source: see `discovery.find_documents`.
        base: folder that relative paths are relative to.

    Raises:
        UsageError: the source does not exist, or no document is readable.
    """
    files, skipped = find_documents(source, base)
    documents: list[Document] = []
    for file in files:
        try:
            documents.append(read_document(file, file.read()))
        except UnreadableDocument as error:
            skipped.append(SkippedDocument(file.id, str(error)))
    require_documents(source, len(documents), skipped)
    return DocumentCollection(documents, sorted(skipped, key=lambda s: s.id))


def require_documents(
    source: str | Path | Sequence[str | Path], readable: int, skipped: Sequence[SkippedDocument]
) -> None:
    """Raise an error if no document is readable.

    Raises:
        UsageError: with the first reasons.
    """
    if readable:
        return
    name = source if isinstance(source, str | Path) else ", ".join(map(str, source))
    if not skipped:
        raise UsageError(f"{name} contains no documents")
    reasons = "; ".join(f"{document.id}: {document.reason}" for document in skipped[:5])
    raise UsageError(
        f"none of the {len(skipped)} file{'s' if len(skipped) > 1 else ''} of {name} can be read. "
        f"{reasons}{' …' if len(skipped) > 5 else ''}"
    )
