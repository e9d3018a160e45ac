"""Scores -> ranked lists, and several ranked lists -> one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RankedList = list[tuple[int, float]]
"""Numbers of rows with their scores, best first."""

RRF_K = 60
"""The constant of reciprocal rank fusion, as in its paper."""


def top_k(
    scores: NDArray[np.float64] | NDArray[np.float32], k: int, above: float = -np.inf
) -> list[RankedList]:
    """The k best columns of each row [rows, columns] that score more than `above`; equal scores in
    column order.

    Scores are compared to seven digits after the point: the same text scores a little differently
    where it stands at another place of a matrix product, and must not for that change its rank.
    """
    rounded = np.round(scores, 7)
    columns = rounded.shape[1]
    result: list[RankedList] = []
    for row in rounded:
        if k < columns:
            # All that equal the k-th best are candidates, or which of them is kept would be left to
            # chance.
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
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): the sum over the lists of weight
    / (60 + rank).

    Equal sums are in row order.
    """
    total: dict[int, float] = {}
    for ranked, weight in zip(lists, weights, strict=True):
        for rank, (i, _) in enumerate(ranked, start=1):
            total[i] = total.get(i, 0.0) + weight / (RRF_K + rank)
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:k]
