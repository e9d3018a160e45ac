"""Which rows stand in which batch: an order that follows from seed and epoch alone, shared out among processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class Batches(Sampler[list[int]]):
    """Row numbers of this process's part of every batch.

    With ``group_by_length`` rows are shuffled, taken in windows of 50 batches, sorted by length within a window, and the batches
    of all windows shuffled again: every row is as likely in any batch as in a plain shuffle of windows. Processes take turns
    within a batch, so that each has rows of all its lengths, and together they see the batches that one process with as many
    rows at a time would see. All have the same number of batches; of the last one, which may be short, a part can be empty.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int = 0, strategy: str = "sequential", rank: int = 0, size: int = 1
    ) -> None:
        """Args:
        lengths: tokens of every row.
        batch_size: rows of a batch in one process.
        seed: of the order.
        strategy: ``group_by_length``, ``random`` or ``sequential``.
        rank, size: this process's number, and how many there are.
        """
        self._lengths, self._batch, self._seed, self._strategy = lengths, batch_size * size, seed, strategy
        self._rank, self._size, self._epoch = rank, size, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._batch)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(order), self._batch):
            yield order[start : start + self._batch][self._rank :: self._size]

    def _order(self) -> list[int]:
        count = len(self._lengths)
        if self._strategy == "sequential":
            return list(range(count))
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        if self._strategy == "random":
            return order
        window = 50 * self._batch
        batches = []
        for start in range(0, count, window):
            part = sorted(order[start : start + window], key=lambda i: -self._lengths[i])
            batches += [part[i : i + self._batch] for i in range(0, len(part), self._batch)]
        full = [b for b in batches if len(b) == self._batch]
        rest = [i for b in batches if len(b) < self._batch for i in b]
        shuffled = torch.randperm(len(full), generator=generator).tolist()
        return [i for n in shuffled for i in full[n]] + rest
