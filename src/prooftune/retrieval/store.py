"""Index storage, local or in object storage: the LanceDB tables ``chunks`` and ``state``.

Every write is one LanceDB commit, so after an interruption a document has either its old or its
new chunks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prooftune.errors import Failure, UsageError
from prooftune.models.embeddings import Vectors
from prooftune.retrieval.types import Chunk, SkippedDocument
from prooftune.utils.files import explain_full_disk

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection

FORMAT = 1
"""Version of the tables, readers and chunking; a change forces a rebuild."""

_COLUMNS = ("id", "document", "source", "page", "section", "start", "end", "text", "passage")


@dataclass(frozen=True, slots=True)
class IndexState:
    """What an index was built from; the field names are keys on disk.

    Attributes:
        embedding: name of the embedding model.
        weights: digest of the model's weights.
        dimension: size of the vectors.
        words, overlap: chunk size and overlap in words.
        source: the documents' source, as absolute paths.
        files: path -> size in bytes, modification time in nanoseconds, SHA-256.
        skipped: unreadable documents.
        complete: whether the last build finished.
        prompts: what the embedding model reads before questions (``query``) and before passages
            (``document``); empty for indexes of version 0.1, which were embedded without.
        format: `FORMAT` at the time.
    """

    embedding: str
    weights: str
    dimension: int
    words: int
    overlap: int
    source: list[str]
    files: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    skipped: list[SkippedDocument] = field(default_factory=list)
    complete: bool = False
    format: int = FORMAT
    prompts: dict[str, str] = field(default_factory=dict)


@contextmanager
def storage_errors(folder: str | Path) -> Iterator[None]:
    """Context manager that turns LanceDB's errors into failures for the user.

    Raises:
        Failure: the disk is full, or the index is inaccessible or damaged.
    """
    try:
        with explain_full_disk(
            Path() if is_url(folder) else Path(folder), OSError, RuntimeError, ValueError
        ):
            yield
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(
            f"the index {folder} cannot be read or written: {error}. If it is damaged, delete it "
            "and rebuild it with prooftune index"
        ) from error


def is_url(folder: str | Path) -> bool:
    return "://" in str(folder)


def connect(folder: str | Path, *, create_if_missing: bool) -> Any:
    """Open the database at a folder or URL.

    Raises:
        UsageError: lancedb is not installed, or the index is missing and not to be created.
        Failure: the location is inaccessible.
    """
    # LanceDB logs a line for every table it creates.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ImportError:
        raise UsageError("an index needs lancedb: pip install 'prooftune[retrieval]'") from None
    no_index = UsageError(
        f"{folder} contains no index; build one with: prooftune index DOCUMENTS -o {folder}"
    )
    if not create_if_missing and not is_url(folder) and not Path(folder).is_dir():
        raise no_index
    with storage_errors(folder):
        database = lancedb.connect(str(folder))
        names = _table_names(database)
    if not create_if_missing and not {"chunks", "state"} <= names:
        raise no_index
    return database


def _table_names(database: DBConnection) -> set[str]:
    # LanceDB lists only some tables unless a limit is given.
    return set(database.list_tables(limit=1000).tables)


def has_index(database: DBConnection) -> bool:
    return {"chunks", "state"} <= _table_names(database)


def schema(dimension: int) -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    types = {
        "id": text,
        "document": text,
        "source": text,
        "page": number,
        "section": text,
        "start": number,
        "end": number,
        "text": text,
        "passage": text,
    }
    return pa.schema(
        [
            *((name, types[name]) for name in _COLUMNS),
            ("key", text),
            ("number", number),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )


def create_tables(database: DBConnection, state: IndexState) -> None:
    # Chunks first: an index exists once both tables do.
    with storage_errors(database.uri):
        database.create_table("chunks", schema=schema(state.dimension), mode="overwrite")
    write_state(database, state)


def write_state(database: DBConnection, state: IndexState) -> None:
    with storage_errors(database.uri):
        database.create_table("state", data=[{"json": json.dumps(asdict(state))}], mode="overwrite")


def read_state(database: DBConnection) -> IndexState | None:
    """The state of the index; None for an index of another format version."""
    with storage_errors(database.uri):
        values = json.loads(database.open_table("state").to_arrow()["json"][0].as_py())
    # Check before the fields are read: another format may have other fields.
    if values.get("format") != FORMAT:
        return None
    values["skipped"] = [SkippedDocument(**item) for item in values["skipped"]]
    return IndexState(**values)


def document_keys(database: DBConnection) -> dict[str, set[str]]:
    """Document id -> keys of its chunks, see `index.build_index`."""
    table = database.open_table("chunks")
    if not table.count_rows():
        return {}
    rows = table.search().select(["document", "key"]).limit(table.count_rows()).to_arrow()
    keys_by_document: dict[str, set[str]] = {}
    for document, key in zip(rows["document"].to_pylist(), rows["key"].to_pylist(), strict=True):
        keys_by_document.setdefault(document, set()).add(key)
    return keys_by_document


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Whole documents in one commit: their chunks with vectors, and the key of each document."""

    chunks: list[Chunk]
    numbers: list[int]
    vectors: list[Vectors]
    document_keys: dict[str, str]


def write_batch(database: DBConnection, batch: DocumentBatch) -> None:
    """Replace the chunks of a batch of documents in one commit."""
    import pyarrow as pa

    vectors = np.concatenate(batch.vectors)
    columns: dict[str, Any] = {
        name: [getattr(chunk, name) for chunk in batch.chunks] for name in _COLUMNS
    }
    columns["key"] = [batch.document_keys[chunk.document] for chunk in batch.chunks]
    columns["number"] = batch.numbers
    table_schema = schema(vectors.shape[1])
    # From the flat array, since a Python list per vector would need many times the memory.
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), vectors.shape[1]
    )
    rows = pa.table(columns, schema=table_schema)
    with storage_errors(database.uri):
        (
            database.open_table("chunks")
            .merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            # Also delete a document's surplus chunks, in the same commit, if it became shorter.
            .when_not_matched_by_source_delete(_document_filter(list(batch.document_keys)))
            .execute(rows)
        )


def delete_documents(database: DBConnection, documents: Sequence[str]) -> None:
    # Limit the length of the SQL filter.
    for start in range(0, len(documents), 500):
        with storage_errors(database.uri):
            database.open_table("chunks").delete(_document_filter(documents[start : start + 500]))


def _document_filter(documents: Sequence[str]) -> str:
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in documents)
    return f"document IN ({names})"


def compact(database: DBConnection) -> None:
    """Compact the tables, and delete versions older than an hour."""
    for name in ("chunks", "state"):
        with storage_errors(database.uri):
            # A search that opened the index before still reads its version for a while.
            database.open_table(name).optimize(cleanup_older_than=timedelta(hours=1))


def load_chunks(
    database: DBConnection, *, vectors: bool = True
) -> tuple[list[Chunk], Vectors | None]:
    """All chunks in document order, and their vectors float32 [n, dimension] if requested."""
    names = [*_COLUMNS, "number", *(["vector"] if vectors else [])]
    with storage_errors(database.uri):
        table = database.open_table("chunks")
        rows = table.search().select(names).limit(max(1, table.count_rows())).to_arrow()
    # LanceDB returns rows in storage order, which depends on the history of updates.
    rows = rows.take(_document_order(rows))
    columns = [rows[name].to_pylist() for name in _COLUMNS]
    chunks = [Chunk(*values) for values in zip(*columns, strict=True)]
    if not vectors:
        return chunks, None
    dimension = rows.schema.field("vector").type.list_size
    # Flat, and not `to_pylist`: a million vectors as Python floats need many times the memory.
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in rows["vector"].chunks]
    return chunks, np.concatenate([np.zeros(0, np.float32), *flat]).reshape(len(chunks), dimension)


def _document_order(rows: pa.Table) -> Any:
    import pyarrow.compute as pc

    return pc.sort_indices(rows, sort_keys=[("document", "ascending"), ("number", "ascending")])
