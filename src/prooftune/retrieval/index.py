"""Builds and updates an index: only new and changed documents are embedded; safe to interrupt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError
from prooftune.models import embeddings
from prooftune.models.embeddings import weights_digest
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
from prooftune.utils.encoding_detection import decodes
from prooftune.utils.files import fingerprint, sha256
from prooftune.utils.progress import progress_bar

if TYPE_CHECKING:
    from lancedb.db import DBConnection

MIN_COMMIT_CHUNKS = 256
"""Minimum chunks per commit, in whole documents: the embeddings that an interruption can lose."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Settings of an index.

    Attributes:
        embedding: embedding model: an alias, a package reference, a folder, or a hub name.
        chunk_words, overlap_words: see `chunks.split_document`.
        batch_tokens: tokens per forward pass of the embedding model, padding included.
    """

    embedding: str = embeddings.DEFAULT_EMBEDDING
    chunk_words: int = CHUNK_WORDS
    overlap_words: int = CHUNK_OVERLAP
    batch_tokens: int = embeddings.BATCH_TOKENS


@dataclass(slots=True)
class BuildSummary:
    """Result of a build.

    Attributes:
        documents, chunks: number in the index now.
        added, changed, removed: document ids.
        unchanged: number of unchanged documents.
        embedded: number of chunks embedded.
        shortened: number of these that exceed the embedding model's maximum length.
        skipped: unreadable documents, with reasons.
        notes: remarks on documents, such as pages without text.
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
    exclude: Collection[Path] = (),
) -> BuildSummary:
    """Update an index: embed new and changed documents, remove deleted ones.

    Safe to interrupt at any time: another run resumes, and the index is the same as without the
    interruption (on one machine).

    Args:
        source: see `discovery.find_documents`.
        folder: folder of the index, or its URL in object storage (s3://…, gs://…, az://…).
        settings: Default: `IndexSettings()`.
        base: folder that relative paths are relative to. Default: the current folder.
        exclude: see `discovery.find_documents`.

    Raises:
        UsageError: no document is readable, or the index has another embedding model.
        Failure: the model cannot be fetched, or the index cannot be written.
    """
    settings, base = settings or IndexSettings(), base or Path()
    files, skipped = find_documents(source, base, exclude)
    if not files:
        require_documents(source, 0, skipped)
    model = embeddings.resolve(settings.embedding)
    database = store.connect(folder, create_if_missing=True)
    state = _start_build(database, folder, settings, model, source, base)
    indexed_keys = store.document_keys(database)
    summary = BuildSummary(skipped=list(skipped))
    _update_documents(
        database, files, indexed_keys, settings, model, state.prompts.get("document", ""), summary
    )
    unreadable = {document.id for document in summary.skipped}
    present = {file.id for file in files} - unreadable
    # Checked before anything is removed: an unmounted disk must not empty the index.
    require_documents(source, len(present), summary.skipped)
    summary.removed = sorted(set(indexed_keys) - present)
    store.delete_documents(database, summary.removed)
    summary.documents = len(present)
    summary.chunks = database.open_table("chunks").count_rows()
    summary.skipped.sort(key=lambda document: document.id)
    store.write_state(
        database, replace(state, files=file_stats(files), skipped=summary.skipped, complete=True)
    )
    # Without changes there are no new files to compact.
    if summary.embedded or summary.removed:
        store.compact(database)
    return summary


def _start_build(
    database: DBConnection,
    folder: str | Path,
    settings: IndexSettings,
    model: Path,
    source: str | Path | Sequence[str | Path],
    base: Path,
) -> IndexState:
    """Mark the index as incomplete, and create it if missing."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    absolute = [str((base / Path(path).expanduser()).resolve()) for path in sources]
    state = IndexState(
        settings.embedding,
        # A name can be given other weights; vectors of two models cannot be compared.
        weights_digest(model),
        embeddings.dimension(model),
        settings.chunk_words,
        settings.overlap_words,
        absolute,
        prompts=embeddings.retrieval_prompts(model),
    )
    previous = store.read_state(database) if store.has_index(database) else None
    if previous is None:
        store.create_tables(database, state)
        return state
    check_model(previous, settings.embedding, model, folder)
    # New passages must be embedded as those that are in the index already.
    state = replace(state, prompts=previous.prompts)
    store.write_state(database, state)
    return state


def check_model(state: IndexState, name: str, model: Path, folder: str | Path) -> None:
    """Check that a model is the embedding model of the index.

    Raises:
        UsageError: it is another model.
    """
    if weights_digest(model) != state.weights:
        dimension = embeddings.dimension(model)
        sizes = (
            ""
            if dimension == state.dimension
            else f" (vectors of {state.dimension} and of {dimension} values)"
        )
        raise UsageError(
            f"the index {folder} was built with the embedding model {state.embedding}, and {name} "
            f"has other weights{sizes}. Use the model of the index, or build an index in another "
            "folder"
        )


def _update_documents(
    database: DBConnection,
    files: Sequence[SourceFile],
    indexed_keys: dict[str, set[str]],
    settings: IndexSettings,
    model: Path,
    prompt: str,
    summary: BuildSummary,
) -> None:
    """Read, split, embed and write every document whose key is not in the index."""
    batch = DocumentBatch([], [], [], {})
    with progress_bar("Indexing documents", len(files)) as progress:
        for file in files:
            try:
                content = file.read()
                key = _document_key(content, file.file_type, settings)
                if indexed_keys.get(file.id) == {key}:
                    summary.unchanged += 1
                else:
                    _add_document(
                        batch, read_document(file, content), key, settings, model, prompt, summary
                    )
                    (summary.changed if file.id in indexed_keys else summary.added).append(file.id)
            except UnreadableDocument as error:
                summary.skipped.append(SkippedDocument(file.id, str(error)))
            # Every commit adds files to the table, which slow down reading until they are
            # compacted.
            if len(batch.chunks) >= MIN_COMMIT_CHUNKS:
                store.write_batch(database, batch)
                batch = DocumentBatch([], [], [], {})
            progress.advance(0)  # type: ignore[arg-type]
        if batch.chunks:
            store.write_batch(database, batch)


def _document_key(content: bytes, file_type: str, settings: IndexSettings) -> str:
    """Hash of what a document's chunks depend on: its bytes, its reader, and the chunk sizes."""
    sizes = [settings.chunk_words, settings.overlap_words, store.FORMAT]
    version = _reader_version(content, file_type)
    # Indexes of 0.1 have keys without a version.
    return fingerprint([content_digest(content), *sizes, *([version] if version > 1 else [])])


def _reader_version(content: bytes, file_type: str) -> int:
    """Version of the reader, for documents of which 0.1 read other parts.

    The next build reads these again; until then the index stays usable.
    """
    if file_type in ("html", "markdown"):
        return 2
    # 0.1 took whatever is not Unicode for Western European.
    in_legacy_encoding = file_type in ("text", "json", "jsonl") and not decodes(content, "utf-8")
    return 2 if in_legacy_encoding else 1


def _add_document(
    batch: DocumentBatch,
    document: Document,
    key: str,
    settings: IndexSettings,
    model: Path,
    prompt: str,
    summary: BuildSummary,
) -> None:
    chunks: list[Chunk] = split_document(document, settings.chunk_words, settings.overlap_words)
    texts = [chunk.text for chunk in chunks]
    # One document at a time, so that its vectors do not depend on other documents in the batch,
    # to the last bit.
    batch.vectors.append(embeddings.embed(texts, model, settings.batch_tokens, prompt=prompt))
    batch.chunks.extend(chunks)
    batch.numbers.extend(range(len(chunks)))
    batch.document_keys[document.id] = key
    summary.embedded += len(chunks)
    summary.shortened += embeddings.count_truncated(texts, model, prompt)
    if document.note:
        summary.notes.append(f"{document.id}: {document.note}")


def file_stats(files: Sequence[SourceFile]) -> dict[str, tuple[int, int, str]]:
    """Size, modification time and SHA-256 of the documents' files."""
    paths = sorted({file.path.resolve() for file in files})
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, sha256(path)) for path in paths
    }


def stale_notices(state: IndexState) -> list[str]:
    """Sentences on how the documents differ from the index; empty if up to date.

    A file with the same size and modification time counts as unchanged; others are compared by
    digest.
    """
    notices = [] if state.complete else ["the last build of the index was interrupted"]
    try:
        # The sources are absolute, so the base does not matter.
        files, _ = find_documents(state.source, Path("/"))
    except UsageError:
        return [
            *notices,
            f"the documents are no longer at {', '.join(state.source)}, so changes cannot be "
            "detected",
        ]
    current = {str(file.path.resolve()): file.path for file in files}
    recorded = state.files if state.complete else {}
    changed = [
        path
        for path, recorded_stats in recorded.items()
        if path in current and _file_changed(Path(path), tuple(recorded_stats))
    ]
    groups = {
        "changed since indexing": changed,
        "deleted since indexing": [path for path in recorded if path not in current],
        "not in the index": [path for path in current if path not in recorded]
        if state.complete
        else [],
    }
    return notices + [
        f"{_list_names(paths)}: {change}" for change, paths in groups.items() if paths
    ]


def _file_changed(path: Path, recorded: tuple[Any, ...]) -> bool:
    status = path.stat()
    # A copy or a checkout changes the time and not the content, so a digest decides.
    return (status.st_size, status.st_mtime_ns) != recorded[:2] and (
        status.st_size != recorded[0] or sha256(path) != recorded[2]
    )


def _list_names(paths: Sequence[str]) -> str:
    return ", ".join(Path(path).name for path in paths[:5]) + (
        f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    )
