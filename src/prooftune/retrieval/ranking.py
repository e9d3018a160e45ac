"""Top-k selection and rank fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RankedList = list[tuple[int, float]]
"""(row index, score), best first."""

RRF_K = 60
"""The constant of reciprocal rank fusion, from the paper."""


def top_k(
    scores: NDArray[np.float64] | NDArray[np.float32], k: int, above: float = -np.inf
) -> list[RankedList]:
    """The k best columns of each row with a score greater than `above`; ties in column order.

    Scores are rounded to 7 decimals: in a matmul the same text gets slightly different scores at
    different positions, which must not change its rank.

    Args:
        scores: float [rows, columns].
        k: maximum number of columns per row.
        above: exclusive lower bound of the scores.
    """
    rounded = np.round(scores, 7)
    columns = rounded.shape[1]
    result: list[RankedList] = []
    for row in rounded:
        if k < columns:
            # All ties with the k-th best are candidates; partition picks among them arbitrarily.
            kth = np.partition(row, columns - k)[columns - k]
            candidates = np.flatnonzero((row >= kth) & (row > above))
        else:
            candidates = np.flatnonzero(row > above)
        order = candidates[np.argsort(-row[candidates], kind="stable")][:k]
        result.append([(int(i), float(row[i])) for i in order])
    return result


def reciprocal_rank_fusion(
    lists: Sequence[RankedList], weights: Sequence[float], k: int
) -> RankedList:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).

    The score is the sum over the lists of ``weight / (60 + rank)``; ties in row order.
    """
    total: dict[int, float] = {}
    for ranked, weight in zip(lists, weights, strict=True):
        for rank, (i, _) in enumerate(ranked, start=1):
            total[i] = total.get(i, 0.0) + weight / (RRF_K + rank)
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:k]
