"""How good a search is, where it is known which passages answer a question.

Each measure is a value per question, float [n], so that its interval and paired differences come
from the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from prooftune.retrieval.types import Hit

Floats = NDArray[np.float64]
_Measure = Callable[[Sequence[int], int], float]


def passage_keys(hits: Sequence[Hit]) -> list[str]:
    """The passages that were found (`Chunk.passage_key`), best first; one found by several of its chunks
    counts once."""
    return list(dict.fromkeys(hit.chunk.passage_key for hit in hits))


def recall(found: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int) -> Floats:
    """The share of a question's gold passages among the first k found, [n]."""
    return _each(found, gold, lambda ranks, size: sum(rank <= k for rank in ranks) / size)


def reciprocal_rank(
    found: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int
) -> Floats:
    """One over the rank of the first gold passage, 0 if none is among the first k, [n]; its mean is
    the MRR."""
    return _each(
        found, gold, lambda ranks, size: max((1 / rank for rank in ranks if rank <= k), default=0.0)
    )


def ndcg(found: Sequence[Sequence[str]], gold: Sequence[Collection[str]], k: int) -> Floats:
    """Discounted gain of gold passages (1 each, over log2(1 + rank)) over that of the best order,
    [n].

    Järvelin and Kekäläinen 2002, with binary relevance.
    """

    def one(ranks: Sequence[int], size: int) -> float:
        best = sum(1 / np.log2(1 + rank) for rank in range(1, min(size, k) + 1))
        return float(sum(1 / np.log2(1 + rank) for rank in ranks if rank <= k) / best)

    return _each(found, gold, one)


def _each(found: Sequence[Sequence[str]], gold: Sequence[Collection[str]], one: _Measure) -> Floats:
    values = []
    for number, (ids, right) in enumerate(zip(found, gold, strict=True)):
        wanted = set(right)
        if not wanted:
            raise ValueError(
                f"question {number} has no gold passage: leave it out, and say how many were"
            )
        ranks = [rank for rank, id_ in enumerate(dict.fromkeys(ids), start=1) if id_ in wanted]
        values.append(one(ranks, len(wanted)))
    return np.array(values, dtype=np.float64)
