"""Questions -> chunks: by words, by meaning, or by both."""

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
"""Hits of each list that fusion looks at, and hits that a reranker looks at."""

DENSE_WEIGHT = 0.25
"""Weight of the dense list in fusion, BM25's is the rest. Of 0.2 to 0.5 the best for recall@10 at
this depth on the development questions of ObliQA (benchmarks/retrieval.py --tune)."""

MAX_IN_MEMORY_CHUNKS = 500_000
"""Chunks up to which vectors are held in memory and compared with all queries at once; beyond it
LanceDB searches."""


@dataclass(frozen=True)
class Index:
    """An index that is open for search; what it holds does not change while it is open.

    Attributes:
        folder: or URL.
        state: what it was made from.
        chunks: all of them, ordered by document and place.
        vectors: float32 [chunks, dimension]; None in a large collection.
        embedding: folder of the embedding model; None: the one that the index names, fetched when
            it is needed.
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
        """The k best chunks for each query, best first; equal scores in the order of documents.

        Args:
            queries: any number; many at once are much faster than one by one.
            k: at most; BM25 finds only chunks that share a word with the query.
            mode: "bm25", "dense" (cosine of embeddings), or "fused" (reciprocal rank fusion of
                both).
            rerank: orders the first `depth` hits anew (`rerank.cross_encoder`).
            depth: hits of each list that are fused, and hits that are reranked; k if that is more.
            dense_weight: of the dense list in fusion, 0 to 1.

        Raises:
            UsageError: another mode, k below 1, or a weight outside 0 to 1.
        """
        _check(mode, k, depth, dense_weight)
        wanted = max(k, depth) if rerank or mode == "fused" else k
        if mode == "fused":
            by_words, dense = self._bm25(queries, wanted), self._dense(queries, wanted)
            keep = wanted if rerank else k
            weights = (1 - dense_weight, dense_weight)
            ranked = [
                reciprocal_rank_fusion(pair, weights, keep)
                for pair in zip(by_words, dense, strict=True)
            ]
        else:
            ranked = self._bm25(queries, wanted) if mode == "bm25" else self._dense(queries, wanted)
        if rerank:
            ranked = [
                self._reranked(query, one, rerank)[:k]
                for query, one in zip(queries, ranked, strict=True)
            ]
        return [[Hit(self.chunks[i], score) for i, score in one] for one in ranked]

    def _bm25(self, queries: Sequence[str], k: int) -> list[RankedList]:
        lists: list[RankedList] = []
        for start in range(0, len(queries), QUERY_BLOCK):
            lists += top_k(self.bm25.scores(queries[start : start + QUERY_BLOCK]), k, above=0.0)
        return lists

    def _dense(self, queries: Sequence[str], k: int) -> list[RankedList]:
        if not self.chunks or not queries:
            return [[] for _ in queries]
        asked = embeddings.embed(
            queries,
            self.embedding_folder,
            description="Embedding questions" if len(queries) > 100 else None,
        )
        if self.vectors is None:
            return self._large(asked, k)
        lists: list[RankedList] = []
        for start in range(0, len(asked), QUERY_BLOCK):
            lists += top_k(asked[start : start + QUERY_BLOCK] @ self.vectors.T, k)
        return lists

    def _large(self, asked: Vectors, k: int) -> list[RankedList]:
        """LanceDB's exact search, which reads the vectors from disk."""
        table = store.connect(self.folder, create_if_missing=False).open_table("chunks")
        number = {chunk.id: i for i, chunk in enumerate(self.chunks)}
        lists: list[RankedList] = []
        for vector in asked:
            found = (
                table.search(vector, vector_column_name="vector")
                .distance_type("cosine")
                .limit(k)
                .select(["id", "_distance"])
                .to_arrow()
            )
            pairs = zip(found["id"].to_pylist(), found["_distance"].to_pylist(), strict=True)
            ranked = [(number[id_], round(1 - float(distance), 7)) for id_, distance in pairs]
            lists.append(sorted(ranked, key=lambda item: (-item[1], item[0])))
        return lists

    def _reranked(self, query: str, ranked: RankedList, rerank: Reranker) -> RankedList:
        scores = rerank(query, [self.chunks[i].text for i, _ in ranked]) if ranked else []
        order = np.argsort([-score for score in scores], kind="stable")
        return [(ranked[n][0], float(scores[n])) for n in order]


def _check(mode: str, k: int, depth: int, dense_weight: float) -> None:
    if mode not in get_args(Mode):
        raise UsageError(
            f"search mode '{mode}'{nearest(mode, get_args(Mode))}: known are "
            f"{', '.join(get_args(Mode))}"
        )
    if k < 1 or depth < 1:
        raise UsageError(f"a search finds at least 1 chunk; asked were {k} (depth {depth})")
    if not 0 <= dense_weight <= 1:
        raise UsageError(f"the weight of the dense list is between 0 and 1, found {dense_weight}")


def open_index(folder: str | Path, embedding: str | None = None) -> Index:
    """Open an index for search.

    Args:
        folder: or URL.
        embedding: the embedding model; where none is given, the one that the index was made with.

    Raises:
        UsageError: there is no index, or it was made with another embedding model or by another
            version.
        Failure: the place cannot be reached.
    """
    database = store.connect(folder, create_if_missing=False)
    state = store.read_state(database)
    if state is None:
        raise UsageError(
            f"the index {folder} is of another version; make it anew with: prooftune index "
            f"DOCUMENTS -o {folder}"
        )
    model = None
    if embedding is not None:
        model = embeddings.resolve(embedding)
        check_model(state, embedding, model, folder)
    with store.storage_errors(folder):
        small = database.open_table("chunks").count_rows() <= MAX_IN_MEMORY_CHUNKS
    chunks, vectors = store.load_chunks(database, vectors=small)
    return Index(folder, state, chunks, vectors, model)


def search_index(
    folder: str | Path, query: str, k: int = 5, mode: Mode = "fused", rerank: str | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """What `prooftune search` shows.

    Args:
        folder: of the index, or its URL.
        query: a question, or words.
        k: hits.
        mode: see `Index.search`.
        rerank: name of a cross-encoder.

    Returns:
        The hits, each as the fields of its chunk with ``rank`` (from 1) and ``score``; and notices,
        such as documents that changed since they were indexed.

    Raises:
        UsageError: there is no index, nothing is asked, or an option is wrong.
    """
    from prooftune.retrieval.rerank import load_cross_encoder

    if not query.strip():
        raise UsageError("nothing is asked: give a question, or words to search for")
    index = open_index(folder)
    [hits] = index.search([query], k, mode, load_cross_encoder(rerank) if rerank else None)
    lines = [
        {"rank": rank, "score": hit.score, **asdict(hit.chunk)}
        for rank, hit in enumerate(hits, start=1)
    ]
    notices = stale_notices(index.state)
    if notices:
        notices.append(f"to bring the index up to date: prooftune index DOCUMENTS -o {folder}")
    return lines, notices
