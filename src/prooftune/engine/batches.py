"""Which rows are computed together."""

from __future__ import annotations

from collections.abc import Sequence


def by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that a batch, padded to its longest row, has at most `budget` tokens.

    Returns:
        Row numbers per batch, longest rows first (so that memory peaks at once, not at the end). A row longer
        than the budget has a batch of its own. The same lengths always give the same batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        if batches and longest * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = max(1, lengths[i])
    return batches
