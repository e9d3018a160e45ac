"""The order of rows: every one once an epoch, from seed and epoch alone, and the same for one
process as for several."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prooftune.training.sampler import LengthGroupedBatchSampler

STRATEGIES = ("group_by_length", "random", "sequential")


def order(
    lengths: list[int], batch_size: int, seed: int, strategy: str, epoch: int = 0
) -> list[int]:
    batches = LengthGroupedBatchSampler(lengths, batch_size, seed, strategy)
    batches.set_epoch(epoch)
    return [number for batch in batches for number in batch]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_row_once_an_epoch_in_an_order_of_seed_and_epoch(strategy: str) -> None:
    lengths = [(7 * i) % 53 for i in range(1003)]
    orders = [order(lengths, 8, 5, strategy, epoch) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1003))
    assert orders[0] == order(lengths, 8, 5, strategy)
    assert (orders[0] == orders[1]) == (strategy == "sequential")


def test_length_grouping_saves_padding_without_sorting_the_epoch() -> None:
    lengths = [(7919 * i) % 211 for i in range(4000)]

    def waste(strategy: str) -> float:
        matches = order(lengths, 16, 0, strategy)
        padded = sum(16 * max(lengths[j] for j in matches[i : i + 16]) for i in range(0, 4000, 16))
        return padded / sum(lengths) - 1

    assert waste("group_by_length") < 0.05 < 0.5 < waste("random")
    matches = order(lengths, 16, 0, "group_by_length")
    first, last = (
        sum(lengths[i] for i in part) / 2000 for part in (matches[:2000], matches[2000:])
    )
    assert abs(first - last) < 12


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=90),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(STRATEGIES),
    st.integers(0, 3),
)
def test_processes_together_see_the_batches_of_one(
    lengths: list[int], each: int, size: int, strategy: str, epoch: int
) -> None:
    def batches(batch_size: int, rank: int = 0, of: int = 1) -> list[list[int]]:
        matches = LengthGroupedBatchSampler(lengths, batch_size, 3, strategy, rank, of)
        matches.set_epoch(epoch)
        assert len(list(matches)) == len(matches)
        return list(matches)

    alone, parts = batches(each * size), [batches(each, rank, size) for rank in range(size)]
    assert all(len(part) == len(alone) for part in parts)  # no process waits for one that has ended
    for whole, *shares in zip(alone, *parts, strict=True):
        assert sorted(whole) == sorted(number for share in shares for number in share)
        assert max(map(len, shares)) <= each and max(map(len, shares)) - min(map(len, shares)) <= 1
