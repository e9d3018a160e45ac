"""The index on disk or in object storage: two LanceDB tables, ``chunks`` and ``state``.

Every write is one commit of LanceDB's, so that a kill leaves a document either as it was or as it
is now.
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

FORMAT = 1
"""Of the tables, and of what readers and chunker make of a document; another one has everything
indexed anew."""

_COLUMNS = ("id", "document", "source", "page", "section", "start", "end", "text", "passage")


@dataclass(frozen=True, slots=True)
class IndexState:
    """What an index was made from.

    Attributes:
        embedding: name of the embedding model, as it was given.
        weights: digest of its weights.
        dimension: of its vectors.
        words, overlap: sizes of chunks.
        source: the documents' source, as absolute paths.
        files: path of a file -> its size in bytes, its time of change in nanoseconds, its SHA-256.
        skipped: documents that could not be read.
        complete: whether the last build came to its end.
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


@contextmanager
def storage_errors(folder: str | Path) -> Iterator[None]:
    """Around what LanceDB reads and writes.

    Raises:
        Failure: the disk is full, or the place or a file of the index is not as it should be.
    """
    try:
        with explain_full_disk(
            Path() if is_url(folder) else Path(folder), OSError, RuntimeError, ValueError
        ):
            yield
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(
            f"the index {folder} cannot be read or written: {error}. If it is damaged, delete it "
            "and make it "
            "anew with prooftune index"
        ) from error


def is_url(folder: str | Path) -> bool:
    return "://" in str(folder)


def connect(folder: str | Path, *, create_if_missing: bool) -> Any:
    """Open the database of a folder or URL.

    Raises:
        UsageError: lancedb is missing; there is no index, and none is to be made.
        Failure: the place cannot be reached.
    """
    # Its log would tell of every table that is made.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
    except ImportError:
        raise UsageError("an index needs lancedb: pip install 'prooftune[retrieval]'") from None
    nothing = UsageError(
        f"{folder} holds no index; make one with: prooftune index DOCUMENTS -o {folder}"
    )
    if not create_if_missing and not is_url(folder) and not Path(folder).is_dir():
        raise nothing
    with storage_errors(folder):
        database = lancedb.connect(str(folder))
        names = _names(database)
    if not create_if_missing and not {"chunks", "state"} <= names:
        raise nothing
    return database


def _names(database: Any) -> set[str]:
    return set(database.list_tables(limit=1000).tables)


def has_index(database: Any) -> bool:
    return {"chunks", "state"} <= _names(database)


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


def create_tables(database: Any, state: IndexState) -> None:
    # The chunks first: an index exists once both tables do.
    with storage_errors(database.uri):
        database.create_table("chunks", schema=schema(state.dimension), mode="overwrite")
    write_state(database, state)


def write_state(database: Any, state: IndexState) -> None:
    with storage_errors(database.uri):
        database.create_table("state", data=[{"json": json.dumps(asdict(state))}], mode="overwrite")


def read_state(database: Any) -> IndexState | None:
    """What the index was made from; None for an index of another version."""
    with storage_errors(database.uri):
        values = json.loads(database.open_table("state").to_arrow()["json"][0].as_py())
    if values.get("format") != FORMAT:
        return None
    values["skipped"] = [SkippedDocument(**one) for one in values["skipped"]]
    return IndexState(**values)


def document_keys(database: Any) -> dict[str, set[str]]:
    """For each document in the index, what its chunks were made from."""
    table = database.open_table("chunks")
    if not table.count_rows():
        return {}
    rows = table.search().select(["document", "key"]).limit(table.count_rows()).to_arrow()
    found: dict[str, set[str]] = {}
    for document, key in zip(rows["document"].to_pylist(), rows["key"].to_pylist(), strict=True):
        found.setdefault(document, set()).add(key)
    return found


@dataclass(frozen=True, slots=True)
class DocumentBatch:
    """Whole documents that are committed together: their chunks with vectors, and the key of each
    document."""

    chunks: list[Chunk]
    numbers: list[int]
    vectors: list[Vectors]
    document_keys: dict[str, str]


def write_batch(database: Any, batch: DocumentBatch) -> None:
    """Put documents in, in place of what the index holds of them, in one commit."""
    import pyarrow as pa

    vectors = np.concatenate(batch.vectors)
    columns: dict[str, Any] = {
        name: [getattr(chunk, name) for chunk in batch.chunks] for name in _COLUMNS
    }
    columns["key"] = [batch.document_keys[chunk.document] for chunk in batch.chunks]
    columns["number"] = batch.numbers
    kind = schema(vectors.shape[1])
    columns["vector"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.ravel()), vectors.shape[1]
    )
    rows = pa.table(columns, schema=kind)
    with storage_errors(database.uri):
        (
            database.open_table("chunks")
            .merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .when_not_matched_by_source_delete(_among(list(batch.document_keys)))
            .execute(rows)
        )


def delete_documents(database: Any, documents: Sequence[str]) -> None:
    for start in range(0, len(documents), 500):
        with storage_errors(database.uri):
            database.open_table("chunks").delete(_among(documents[start : start + 500]))


def _among(documents: Sequence[str]) -> str:
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in documents)
    return f"document IN ({quoted})"


def compact(database: Any) -> None:
    """Put the pieces of many commits together, and delete what older versions held (except of the
    last hour's)."""
    for name in ("chunks", "state"):
        with storage_errors(database.uri):
            database.open_table(name).optimize(cleanup_older_than=timedelta(hours=1))


def load_chunks(database: Any, *, vectors: bool = True) -> tuple[list[Chunk], Vectors | None]:
    """All chunks ordered by document and place, and their vectors [n, dimension]."""
    names = [*_COLUMNS, "number", *(["vector"] if vectors else [])]
    with storage_errors(database.uri):
        table = database.open_table("chunks")
        rows = table.search().select(names).limit(max(1, table.count_rows())).to_arrow()
    rows = rows.take(_order(rows))
    columns = [rows[name].to_pylist() for name in _COLUMNS]
    chunks = [Chunk(*values) for values in zip(*columns, strict=True)]
    if not vectors:
        return chunks, None
    dimension = rows.schema.field("vector").type.list_size
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in rows["vector"].chunks]
    return chunks, np.concatenate([np.zeros(0, np.float32), *flat]).reshape(len(chunks), dimension)


def _order(rows: pa.Table) -> Any:
    import pyarrow.compute as pc

    return pc.sort_indices(rows, sort_keys=[("document", "ascending"), ("number", "ascending")])
