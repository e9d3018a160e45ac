"""Search: BM25, dense, or a fusion of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from prooftune.errors import UsageError, nearest
from prooftune.models import embeddings
from prooftune.models.embeddings import Vectors
from prooftune.retrieval import store
from prooftune.retrieval.bm25 import BM25, QUERY_BLOCK
from prooftune.retrieval.index import check_model, stale_notices
from prooftune.retrieval.ranking import RankedList, reciprocal_rank_fusion, top_k
from prooftune.retrieval.types import Chunk, Hit, Reranker

Mode = Literal["bm25", "dense", "fused"]

DEPTH = 100
"""Hits per list to fuse, and hits to rerank."""

DENSE_WEIGHT = 0.25
"""Weight of the dense list in fusion; BM25 has the rest. Of 0.2 to 0.5 the best for recall@10 at
this depth on the development questions of ObliQA (benchmarks/retrieval.py --tune)."""

MAX_IN_MEMORY_CHUNKS = 500_000
"""Up to this size vectors are in memory and searched with a matmul; beyond it LanceDB searches."""


@dataclass(frozen=True)
class Index:
    """An index opened for search; an immutable snapshot.

    Attributes:
        folder: folder or URL of the index.
        state: what the index was built from.
        chunks: all chunks in document order.
        vectors: float32 [chunks, dimension]; None for a large collection.
        embedding: folder of the embedding model. Default: the index's model, fetched on demand.
    """

    folder: str | Path
    state: store.IndexState
    chunks: list[Chunk]
    vectors: Vectors | None
    embedding: Path | None = None

    @cached_property
    def bm25(self) -> BM25:
        return BM25([chunk.text for chunk in self.chunks])

    @cached_property
    def embedding_folder(self) -> Path:
        if self.embedding is not None:
            return self.embedding
        model = embeddings.resolve(self.state.embedding)
        # Vectors of two models cannot be compared.
        check_model(self.state, self.state.embedding, model, self.folder)
        return model

    def search(
        self,
        queries: Sequence[str],
        k: int,
        mode: Mode = "fused",
        rerank: Reranker | None = None,
        *,
        depth: int = DEPTH,
        dense_weight: float = DENSE_WEIGHT,
    ) -> list[list[Hit]]:
        """The top k chunks for each query, best first; ties in document order.

        Args:
            queries: queries; a batch is much faster than single calls.
            k: maximum number of hits; BM25 finds only chunks that share a word with the query.
            mode: "bm25", "dense" (cosine of embeddings), or "fused" (reciprocal rank fusion of
                both).
            rerank: reorders the top `depth` hits (see `rerank.load_cross_encoder`).
            depth: hits per list to fuse, and hits to rerank; at least k.
            dense_weight: weight of the dense list in fusion, 0 to 1.

        Raises:
            UsageError: unknown mode, k below 1, or a weight outside 0 to 1.
        """
        _check_options(mode, k, depth, dense_weight)
        # Fusion and reranking need more than k: a passage may be far down in one list.
        num_candidates = max(k, depth) if rerank or mode == "fused" else k
        if mode == "fused":
            lexical, dense = (
                self._bm25(queries, num_candidates),
                self._dense(queries, num_candidates),
            )
            num_fused = num_candidates if rerank else k
            weights = (1 - dense_weight, dense_weight)
            ranked = [
                reciprocal_rank_fusion(pair, weights, num_fused)
                for pair in zip(lexical, dense, strict=True)
            ]
        else:
            ranked = (
                self._bm25(queries, num_candidates)
                if mode == "bm25"
                else self._dense(queries, num_candidates)
            )
        if rerank:
            ranked = [
                self._rerank_hits(query, hits, rerank)[:k]
                for query, hits in zip(queries, ranked, strict=True)
            ]
        return [[Hit(self.chunks[i], score) for i, score in hits] for hits in ranked]

    def _bm25(self, queries: Sequence[str], k: int) -> list[RankedList]:
        lists: list[RankedList] = []
        for start in range(0, len(queries), QUERY_BLOCK):
            # A score of 0: no word in common.
            lists += top_k(self.bm25.scores(queries[start : start + QUERY_BLOCK]), k, above=0.0)
        return lists

    def _dense(self, queries: Sequence[str], k: int) -> list[RankedList]:
        if not self.chunks or not queries:
            return [[] for _ in queries]
        query_vectors = embeddings.embed(
            queries,
            self.embedding_folder,
            description="Embedding questions" if len(queries) > 100 else None,
            prompt=self.state.prompts.get("query", ""),
        )
        if self.vectors is None:
            return self._search_table(query_vectors, k)
        lists: list[RankedList] = []
        # In blocks, since queries x chunks may not fit into memory.
        for start in range(0, len(query_vectors), QUERY_BLOCK):
            lists += top_k(query_vectors[start : start + QUERY_BLOCK] @ self.vectors.T, k)
        return lists

    def _search_table(self, query_vectors: Vectors, k: int) -> list[RankedList]:
        """Exact search by LanceDB, which reads the vectors from disk."""
        table = store.connect(self.folder, create_if_missing=False).open_table("chunks")
        chunk_index = {chunk.id: i for i, chunk in enumerate(self.chunks)}
        lists: list[RankedList] = []
        for vector in query_vectors:
            table_rows = (
                table.search(vector, vector_column_name="vector")
                .distance_type("cosine")
                .limit(k)
                .select(["id", "_distance"])
                .to_arrow()
            )
            pairs = zip(
                table_rows["id"].to_pylist(), table_rows["_distance"].to_pylist(), strict=True
            )
            # Rounded and ordered as in `top_k`, so that both ways rank alike.
            ranked = [(chunk_index[id_], round(1 - float(distance), 7)) for id_, distance in pairs]
            lists.append(sorted(ranked, key=lambda item: (-item[1], item[0])))
        return lists

    def _rerank_hits(self, query: str, ranked: RankedList, rerank: Reranker) -> RankedList:
        scores = rerank(query, [self.chunks[i].text for i, _ in ranked]) if ranked else []
        # Stable: equal scores stay in the order of the search.
        order = np.argsort([-score for score in scores], kind="stable")
        return [(ranked[n][0], float(scores[n])) for n in order]


def _check_options(mode: str, k: int, depth: int, dense_weight: float) -> None:
    if mode not in get_args(Mode):
        raise UsageError(
            f"unknown search mode '{mode}'{nearest(mode, get_args(Mode))}; modes: "
            f"{', '.join(get_args(Mode))}"
        )
    if k < 1 or depth < 1:
        raise UsageError(f"k and depth must be at least 1, found {k} and {depth}")
    if not 0 <= dense_weight <= 1:
        raise UsageError(
            f"the weight of the dense list must be between 0 and 1, found {dense_weight}"
        )


def open_index(folder: str | Path, embedding: str | None = None) -> Index:
    """Open an index for search.

    Args:
        folder: folder or URL of the index.
        embedding: name of the embedding model. Default: the index's model.

    Raises:
        UsageError: the index is missing, or has another embedding model or format version.
        Failure: the location is inaccessible.
    """
    database = store.connect(folder, create_if_missing=False)
    state = store.read_state(database)
    if state is None:
        raise UsageError(
            f"the index {folder} has another format version; rebuild it with: prooftune index "
            f"DOCUMENTS -o {folder}"
        )
    model = None
    if embedding is not None:
        model = embeddings.resolve(embedding)
        check_model(state, embedding, model, folder)
    with store.storage_errors(folder):
        # Up to this size a matmul over all vectors is faster than an index, and exact.
        in_memory = database.open_table("chunks").count_rows() <= MAX_IN_MEMORY_CHUNKS
    chunks, vectors = store.load_chunks(database, vectors=in_memory)
    return Index(folder, state, chunks, vectors, model)


def search_index(
    folder: str | Path, query: str, k: int = 5, mode: Mode = "fused", rerank: str | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The result of `prooftune search`.

    Args:
        folder: folder or URL of the index.
        query: a question or keywords.
        k: maximum number of hits.
        mode: see `Index.search`.
        rerank: name of a cross-encoder. Default: no reranking.

    Returns:
        The hits, each with the fields of its chunk, ``rank`` (from 1) and ``score``; and notices,
        such as documents that changed since indexing.

    Raises:
        UsageError: the index is missing, the query is empty, or an option is invalid.
    """
    from prooftune.retrieval.rerank import load_cross_encoder

    # An empty query would give every passage a score of 0.
    if not query.strip():
        raise UsageError("the query is empty: give a question, or words to search for")
    index = open_index(folder)
    [hits] = index.search([query], k, mode, load_cross_encoder(rerank) if rerank else None)
    lines = [
        {"rank": rank, "score": hit.score, **asdict(hit.chunk)}
        for rank, hit in enumerate(hits, start=1)
    ]
    notices = stale_notices(index.state)
    if notices:
        notices.append(f"to update the index: prooftune index DOCUMENTS -o {folder}")
    return lines, notices
