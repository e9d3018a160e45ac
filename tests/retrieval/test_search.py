"""Search in each mode against a plain one, and reranking with a tiny cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prooftune.errors import UsageError
from prooftune.models import embeddings
from prooftune.retrieval import search
from prooftune.retrieval.index import IndexSettings, build_index
from prooftune.retrieval.rerank import load_cross_encoder
from prooftune.retrieval.search import Index, open_index, search_index
from retrieval.tiny import bert, collection, texts

QUERIES = texts(9, seed=5, words=4)


@pytest.fixture(scope="module")
def folder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    build_index(
        collection(root / "docs", n=8),
        root / "index",
        IndexSettings(str(encoder_folder), chunk_words=12, overlap_words=3),
    )
    return root / "index"


@pytest.fixture
def opened(folder: Path) -> Index:
    return open_index(folder)


def test_dense_search_is_by_cosine(opened: Index, encoder_folder: Path) -> None:
    vectors = embeddings.embed([chunk.text for chunk in opened.chunks], encoder_folder)
    queries = embeddings.embed(QUERIES, encoder_folder)
    for cosines, hits in zip(queries @ vectors.T, opened.search(QUERIES, 5, "dense"), strict=True):
        best = np.sort(cosines)[::-1][:5]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=0.01)


@pytest.mark.parametrize("mode", ["bm25", "dense"])
def test_blocks_do_not_show(
    opened: Index, mode: search.Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened.search(QUERIES, 6, mode)
    monkeypatch.setattr(search, "QUERY_BLOCK", 2)
    for a, b in zip(whole, opened.search(QUERIES, 6, mode), strict=True):
        assert [hit.chunk for hit in a] == [hit.chunk for hit in b]
        np.testing.assert_allclose([hit.score for hit in a], [hit.score for hit in b], atol=1e-6)


def test_fusion_lies_between_its_lists(opened: Index) -> None:
    def ids(mode: search.Mode, **options: Any) -> list[list[str]]:
        hits = opened.search(QUERIES, 3, mode, **options)
        return [[hit.chunk.id for hit in hits] for hits in hits]

    assert ids("fused", dense_weight=1.0) == ids("dense")
    assert ids("fused", dense_weight=0.0) == ids("bm25")
    dense, by_words, fused = ids("dense"), ids("bm25"), ids("fused", depth=3)
    assert all(set(c) <= set(a) | set(b) for a, b, c in zip(dense, by_words, fused, strict=True))
    assert fused not in (dense, by_words)


def test_words_that_no_chunk_holds(opened: Index) -> None:
    assert opened.search(["zebra"], 5, "bm25") == [[]]
    assert len(opened.search(["zebra"], 5, "fused")[0]) == 5, "the dense list still has its say"
    assert opened.search([], 5) == []


def test_a_large_collection_answers_the_same(
    folder: Path, opened: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = opened.search(QUERIES, 5, "dense")
    monkeypatch.setattr(search, "MAX_IN_MEMORY_CHUNKS", 3)
    large = open_index(folder)
    assert large.vectors is None
    for a, b in zip(expected, large.search(QUERIES, 5, "dense"), strict=True):
        assert [hit.chunk for hit in a] == [hit.chunk for hit in b]
        np.testing.assert_allclose([hit.score for hit in a], [hit.score for hit in b], atol=1e-5)


def test_a_reranker_orders_the_candidates_anew(opened: Index) -> None:
    def shortest(query: str, given: Sequence[str]) -> list[float]:
        assert query in QUERIES
        return [-float(len(text)) for text in given]

    for hits, plain in zip(
        opened.search(QUERIES, 4, "bm25", shortest, depth=10),
        opened.search(QUERIES, 10, "bm25"),
        strict=True,
    ):
        expected = sorted(plain, key=lambda hit: len(hit.chunk.text))[:4]
        assert [hit.chunk.id for hit in hits] == [hit.chunk.id for hit in expected]


def test_a_cross_encoder_scores_pairs(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = bert(tmp_path / "cross", outputs=1)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
    )
    given = ["apple", *texts(3), texts(1, words=200)[0]]
    expected = []
    for text in given:
        inputs = tokenizer(
            "bank law", text, truncation="only_second", max_length=64, return_tensors="pt"
        )
        with torch.inference_mode():
            expected.append(float(model(**inputs).logits))
    got = load_cross_encoder(str(folder))("bank law", given)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.ptp(expected) > 0.01
    assert len(load_cross_encoder(str(folder))("bank " * 100, given)) == 5, (
        "a question that is too long leaves room for the text"
    )
    with pytest.raises(UsageError, match="3 outputs"):
        load_cross_encoder(str(bert(tmp_path / "three", outputs=3)))


def test_lines_for_the_command(folder: Path) -> None:
    lines, notices = search_index(folder, "apple bank", k=2)
    assert notices == []
    assert [line["rank"] for line in lines] == [1, 2] and lines[0]["score"] >= lines[1]["score"]
    assert set(lines[0]) == {
        "rank",
        "score",
        "id",
        "document",
        "source",
        "page",
        "section",
        "start",
        "end",
        "text",
        "passage",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "bm52"}, r"'bm52' \(did you mean 'bm25'"),
        ({"k": 0}, "at least 1"),
        ({"query": " "}, "the query is empty"),
    ],
)
def test_invalid_search_options_are_errors(
    options: dict[str, object], message: str, folder: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        search_index(folder, **{"query": "apple", **options})  # type: ignore[arg-type]
