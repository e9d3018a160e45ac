"""Documents -> index: what has not changed is left, what a kill left undone is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prooftune.errors import UsageError
from prooftune.models import embeddings
from prooftune.models.loading import weights_digest
from prooftune.retrieval import store
from prooftune.retrieval.chunks import CHUNK_OVERLAP, CHUNK_WORDS, split_document
from prooftune.retrieval.discovery import (
    SourceFile,
    UnreadableDocument,
    content_digest,
    find_documents,
)
from prooftune.retrieval.documents import require_documents
from prooftune.retrieval.readers import read_document
from prooftune.retrieval.store import DocumentBatch, IndexState
from prooftune.retrieval.types import Chunk, Document, SkippedDocument
from prooftune.utils.files import fingerprint, sha256
from prooftune.utils.progress import progress_bar

MIN_COMMIT_CHUNKS = 256
"""Chunks that are written together, at least; only whole documents are. A kill costs as many
embeddings."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How an index is built.

    Attributes:
        embedding: an alias, a package reference, a folder, or a hub name.
        chunk_words, overlap_words: see `chunks.split_document`.
        batch_tokens: tokens per forward pass of the embedding model, padding included.
    """

    embedding: str = embeddings.DEFAULT_EMBEDDING
    chunk_words: int = CHUNK_WORDS
    overlap_words: int = CHUNK_OVERLAP
    batch_tokens: int = embeddings.BATCH_TOKENS


@dataclass(slots=True)
class BuildSummary:
    """What a build did.

    Attributes:
        documents, chunks: in the index now.
        added, changed, removed: ids of documents.
        unchanged: number of documents that were left as they are.
        embedded: chunks that were embedded.
        shortened: of these, how many are longer than the embedding model reads.
        skipped: documents that could not be read, with reasons.
        notes: what to know about documents that were read.
    """

    documents: int = 0
    chunks: int = 0
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    embedded: int = 0
    shortened: int = 0
    skipped: list[SkippedDocument] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def build_index(
    source: str | Path | Sequence[str | Path],
    folder: str | Path,
    settings: IndexSettings | None = None,
    base: Path | None = None,
) -> BuildSummary:
    """Bring an index up to date with its documents: embed the new and the changed ones, remove the
    vanished ones.

    Safe to kill at any moment: run again, it goes on, and the index is the same as without the kill
    (on one machine).

    Args:
        source: see `finding.find`.
        folder: where the index is or will be, also as a URL of object storage (s3://…, gs://…,
            az://…).
        settings: embedding model and chunks; the defaults where none are given.
        base: the folder that relative paths start from; the current one where none is given.

    Raises:
        UsageError: no document can be read, or the index was made with another embedding model.
        Failure: the model could not be fetched, or the place not be written.
    """
    settings, base = settings or IndexSettings(), base or Path()
    files, skipped = find_documents(source, base)
    if not files:
        require_documents(source, 0, skipped)
    model = embeddings.resolve(settings.embedding)
    database = store.connect(folder, create_if_missing=True)
    state = _begin(database, folder, settings, model, source, base)
    had = store.document_keys(database)
    summary = BuildSummary(skipped=list(skipped))
    _update(database, files, had, settings, model, summary)
    unreadable = {one.id for one in summary.skipped}
    present = {file.id for file in files} - unreadable
    # Before anything is removed: a disk that is not mounted must not empty the index.
    require_documents(source, len(present), summary.skipped)
    summary.removed = sorted(set(had) - present)
    store.delete_documents(database, summary.removed)
    summary.documents = len(present)
    summary.chunks = database.open_table("chunks").count_rows()
    summary.skipped.sort(key=lambda one: one.id)
    store.write_state(
        database, replace(state, files=file_stats(files), skipped=summary.skipped, complete=True)
    )
    if summary.embedded or summary.removed:
        store.compact(database)
    return summary


def _begin(
    database: Any,
    folder: str | Path,
    settings: IndexSettings,
    model: Path,
    source: str | Path | Sequence[str | Path],
    base: Path,
) -> IndexState:
    """Mark the index as being built, making it where there is none."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    absolute = [str((base / Path(one).expanduser()).resolve()) for one in sources]
    state = IndexState(
        settings.embedding,
        weights_digest(model),
        embeddings.dimension(model),
        settings.chunk_words,
        settings.overlap_words,
        absolute,
    )
    before = store.read_state(database) if store.has_index(database) else None
    if before is None:
        store.create_tables(database, state)
        return state
    check_model(before, settings.embedding, model, folder)
    store.write_state(database, state)
    return state


def check_model(state: IndexState, name: str, model: Path, folder: str | Path) -> None:
    """Refuse a model that is not the index's.

    Raises:
        UsageError: naming both models and what to do.
    """
    dimension = embeddings.dimension(model)
    if (dimension, weights_digest(model)) != (state.dimension, state.weights):
        why = (
            ""
            if dimension == state.dimension
            else f" (vectors of {state.dimension} and of {dimension} values)"
        )
        raise UsageError(
            f"the index {folder} was made with the embedding model {state.embedding}, and {name} "
            f"is another{why}. "
            f"Use {state.embedding}, or make an index in another folder"
        )


def _update(
    database: Any,
    files: Sequence[SourceFile],
    had: dict[str, set[str]],
    settings: IndexSettings,
    model: Path,
    summary: BuildSummary,
) -> None:
    """Read, cut, embed and write every document whose key is not in the index."""
    batch = DocumentBatch([], [], [], {})
    with progress_bar("Indexing documents", len(files)) as progress:
        for file in files:
            try:
                content = file.read()
                key = _key(content, settings)
                if had.get(file.id) == {key}:
                    summary.unchanged += 1
                else:
                    _add(batch, read_document(file, content), key, settings, model, summary)
                    (summary.changed if file.id in had else summary.added).append(file.id)
            except UnreadableDocument as error:
                summary.skipped.append(SkippedDocument(file.id, str(error)))
            if len(batch.chunks) >= MIN_COMMIT_CHUNKS:
                store.write_batch(database, batch)
                batch = DocumentBatch([], [], [], {})
            progress.advance(0)  # type: ignore[arg-type]
        if batch.chunks:
            store.write_batch(database, batch)


def _key(content: bytes, settings: IndexSettings) -> str:
    """What a document's chunks depend on: its bytes, and how it is cut."""
    return fingerprint(
        [content_digest(content), settings.chunk_words, settings.overlap_words, store.FORMAT]
    )


def _add(
    batch: DocumentBatch,
    document: Document,
    key: str,
    settings: IndexSettings,
    model: Path,
    summary: BuildSummary,
) -> None:
    chunks: list[Chunk] = split_document(document, settings.chunk_words, settings.overlap_words)
    texts = [chunk.text for chunk in chunks]
    # Each document by itself, so that its vectors are the same to the last bit whatever is built
    # together with it.
    batch.vectors.append(embeddings.embed(texts, model, settings.batch_tokens))
    batch.chunks.extend(chunks)
    batch.numbers.extend(range(len(chunks)))
    batch.document_keys[document.id] = key
    summary.embedded += len(chunks)
    summary.shortened += embeddings.count_truncated(texts, model)
    if document.note:
        summary.notes.append(f"{document.id}: {document.note}")


def file_stats(files: Sequence[SourceFile]) -> dict[str, tuple[int, int, str]]:
    """Size, time of change and digest of the files that hold the documents."""
    paths = sorted({file.path.resolve() for file in files})
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, sha256(path)) for path in paths
    }


def stale_notices(state: IndexState) -> list[str]:
    """How the documents differ from what was indexed, as sentences; empty if they do not.

    A file whose size and time are those of the index is taken to be the same; another one is
    compared by its digest.
    """
    notices = [] if state.complete else ["the last build of the index did not come to its end"]
    try:
        files, _ = find_documents(state.source, Path("/"))
    except UsageError:
        return [
            *notices,
            f"the documents are no longer at {', '.join(state.source)}, so changes cannot be "
            "noticed",
        ]
    now = {str(file.path.resolve()): file.path for file in files}
    recorded = state.files if state.complete else {}
    changed = [
        path for path, seen in recorded.items() if path in now and _differs(Path(path), tuple(seen))
    ]
    groups = {
        "changed since it was indexed": changed,
        "no longer there": [path for path in recorded if path not in now],
        "not in the index": [path for path in now if path not in recorded]
        if state.complete
        else [],
    }
    return notices + [f"{_named(paths)}: {what}" for what, paths in groups.items() if paths]


def _differs(path: Path, seen: tuple[Any, ...]) -> bool:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) != seen[:2] and (
        status.st_size != seen[0] or sha256(path) != seen[2]
    )


def _named(paths: Sequence[str]) -> str:
    return ", ".join(Path(path).name for path in paths[:5]) + (
        f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    )
