"""Measures against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from prooftune.retrieval.metrics import ndcg, passage_keys, recall, reciprocal_rank
from prooftune.retrieval.types import Chunk, Hit

IDS = "abcdefgh"
CASES = st.lists(
    st.tuples(st.permutations(IDS), st.sets(st.sampled_from(IDS), min_size=1)),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@settings(deadline=None)
@given(CASES, st.integers(1, 10))
def test_measures_equal_plain_ones(cases: list[tuple[list[str], set[str]]], k: int) -> None:
    retrieved, gold = [ids for ids, _ in cases], [right for _, right in cases]
    for i, (ids, right) in enumerate(cases):
        assert recall(retrieved, gold, k)[i] == len(set(ids[:k]) & right) / len(right)
        first = next((rank for rank, id_ in enumerate(ids[:k], start=1) if id_ in right), None)
        assert reciprocal_rank(retrieved, gold, k)[i] == (1 / first if first else 0)
        relevant = [[int(id_ in right) for id_ in ids]]
        expected = ndcg_score(relevant, [[-rank for rank in range(len(ids))]], k=k)
        assert ndcg(retrieved, gold, k)[i] == pytest.approx(expected)


def test_gold_that_is_not_in_the_list_counts() -> None:
    assert recall([["a"]], [{"a", "z"}], 5).tolist() == [0.5]
    assert ndcg([["a"]], [{"a", "z"}], 5)[0] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    with pytest.raises(ValueError, match="question 1 has no gold"):
        recall([["a"], ["a"]], [{"a"}, set()], 5)


def test_a_passage_found_twice_counts_once() -> None:
    chunks = [
        Chunk(str(i), "d", "d", None, None, 0, 1, "x", passage)
        for i, passage in enumerate(["p", "p", None])
    ]
    assert passage_keys([Hit(chunk, 1.0) for chunk in chunks]) == ["p", "2"]
    assert recall([["p", "p", "q"]], [{"q"}], 2).tolist() == [1.0]
