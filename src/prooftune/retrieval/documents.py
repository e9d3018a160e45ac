"""A document collection read as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument, find_documents
from prooftune.retrieval.readers import read_document
from prooftune.retrieval.types import Document, DocumentCollection, SkippedDocument


def read_documents(source: str | Path | Sequence[str | Path], base: Path) -> DocumentCollection:
    """Read every document of a file, folder, glob pattern or zip archive, or of a list of these.

    PDF, HTML, Markdown, plain text and JSON are read. One that cannot be is listed with its reason,
    and the others go on.

    Args:
        source: see `finding.find`.
        base: the folder that relative paths start from.

    Raises:
        UsageError: nothing is there, or none of it can be read.
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
    """Raise where nothing is left.

    Raises:
        UsageError: no document is readable; the first reasons are named.
    """
    if readable:
        return
    named = source if isinstance(source, str | Path) else ", ".join(map(str, source))
    if not skipped:
        raise UsageError(f"{named} holds no documents")
    reasons = "; ".join(f"{one.id}: {one.reason}" for one in skipped[:5])
    raise UsageError(
        f"none of the {len(skipped)} file{'s' if len(skipped) > 1 else ''} of {named} can be read. "
        f"{reasons}{' …' if len(skipped) > 5 else ''}"
    )
