"""BM25 against its formula, ranking against plain sorting, fusion against its definition."""

from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.retrieval.bm25 import BM25, stem, terms
from prooftune.retrieval.ranking import reciprocal_rank_fusion, top_k
from retrieval.tiny import texts


def plain(query: str, collection: list[str], k1: float, b: float) -> list[float]:
    """The formula, one text after another."""
    bags = [Counter(terms(text)) for text in collection]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in terms(query):
            df = sum(term in other for other in bags)
            if bag[term]:
                idf = log(1 + (len(bags) - df + 0.5) / (df + 0.5))
                score += idf * bag[term] / (bag[term] + k1 * (1 - b + b * bag.total() / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (2.0, 0.0), (0.5, 1.0)])
def test_scores_equal_the_formula(k1: float, b: float) -> None:
    collection = [" ".join(text.split()[: 5 + 3 * i]) for i, text in enumerate(texts(8))]
    queries = ["apple bank bank law", "unknown", "", "The trains' ENGINES"]
    got = BM25(collection, k1, b).scores(queries)
    np.testing.assert_allclose(
        got, [plain(query, collection, k1, b) for query in queries], atol=1e-12
    )
    assert (got[0] > 0).any() and not got[1:3].any()


def test_words_are_compared_by_their_stems() -> None:
    # From the examples of Porter's paper.
    assert {
        stem(word) for word in ("connect", "connected", "connecting", "connection", "connections")
    } == {"connect"}
    assert terms("Art. 5(1) KYC-größer ATMs") == ["art", "5", "1", "kyc", "grösser", "atm"], (
        "case-folded; ß is ss in Unicode"
    )
    assert BM25(["reporting of transactions", "report"]).scores(["reports"]).all()


def test_scripts_without_spaces_are_found_by_letters_and_pairs() -> None:
    assert terms("北京大学 BERT") == ["北", "京", "大", "学", "北京", "京大", "大学", "bert"]
    assert terms("ใน") == ["ใ", "น", "ใน"]
    assert terms("返品できます") == [*"返品できます", "返品", "品で"], "no pairs of Hiragana"
    found = BM25(["退货的运费由买家承担", "货运公司退出市场"]).scores(["退货", "公司"])
    assert found[0, 0] > found[0, 1] > 0, "the same letters, but no pair"
    assert found[1, 1] > 0 == found[1, 0]


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=7, max_size=7),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 9),
)
def test_top_equals_a_stable_sort(rows: list[list[float]], k: int) -> None:
    for row, got in zip(rows, top_k(np.array(rows), k, above=0.0), strict=True):
        expected = sorted(
            ((i, v) for i, v in enumerate(row) if v > 0), key=lambda item: (-item[1], item[0])
        )[:k]
        assert got == expected


def test_fusion_is_the_sum_of_reciprocal_ranks() -> None:
    fused = reciprocal_rank_fusion([[(4, 9.0), (2, 8.0)], [(2, 0.9), (7, 0.8)]], (1.0, 1.0), 3)
    assert [i for i, _ in fused] == [2, 4, 7]
    assert [score for _, score in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    assert [i for i, _ in reciprocal_rank_fusion([[(4, 9.0)], [(2, 0.9)]], (0.5, 0.5), 5)] == [
        2,
        4,
    ], "equal sums are in row order"
    assert [i for i, _ in reciprocal_rank_fusion([[(4, 9.0)], [(2, 0.9)]], (0.6, 0.4), 5)] == [4, 2]
