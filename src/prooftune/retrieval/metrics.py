"""Retrieval metrics against gold passages.

Every metric is a value per question, float [n], for bootstrap intervals and paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from prooftune.retrieval.types import Hit

Floats = NDArray[np.float64]
_Metric = Callable[[Sequence[int], int], float]


def passage_keys(hits: Sequence[Hit]) -> list[str]:
    """Keys of the retrieved passages (`Chunk.passage_key`), best first, without duplicates."""
    return list(dict.fromkeys(hit.chunk.passage_key for hit in hits))


def recall(retrieved: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int) -> Floats:
    """Recall at k: the share of a question's gold passages among the top k, float [n]."""
    return _per_question(
        retrieved, gold, lambda ranks, size: sum(rank <= k for rank in ranks) / size
    )


def reciprocal_rank(
    retrieved: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int
) -> Floats:
    """Reciprocal rank of the first gold passage, 0 if none is in the top k, float [n].

    The mean is the MRR.
    """
    return _per_question(
        retrieved,
        gold,
        lambda ranks, size: max((1 / rank for rank in ranks if rank <= k), default=0.0),
    )


def ndcg(retrieved: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int) -> Floats:
    """Normalised discounted cumulative gain at k with binary relevance, float [n].

    Järvelin and Kekäläinen 2002. Gain 1 per gold passage, discount log2(1 + rank).
    """

    def gain(ranks: Sequence[int], size: int) -> float:
        # The ideal order has all gold passages first, as far as there is room for them.
        best = sum(1 / np.log2(1 + rank) for rank in range(1, min(size, k) + 1))
        return float(sum(1 / np.log2(1 + rank) for rank in ranks if rank <= k) / best)

    return _per_question(retrieved, gold, gain)


def _per_question(
    retrieved: Sequence[Sequence[str]], gold: Sequence[Collection[str]], metric: _Metric
) -> Floats:
    values = []
    for number, (ids, gold_keys) in enumerate(zip(retrieved, gold, strict=True)):
        relevant = set(gold_keys)
        if not relevant:
            raise ValueError(
                f"question {number} has no gold passage: exclude such questions and report how many"
            )
        # Chunks of one passage count once, at their best rank.
        ranks = [rank for rank, id_ in enumerate(dict.fromkeys(ids), start=1) if id_ in relevant]
        values.append(metric(ranks, len(relevant)))
    return np.array(values, dtype=np.float64)
