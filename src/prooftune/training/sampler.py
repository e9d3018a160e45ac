"""Which rows stand in which batch: an order that follows from seed and epoch alone, shared out
among processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Row numbers of this process's part of every batch.

    With ``group_by_length`` rows are shuffled, taken in windows of 50 batches, sorted by length
    within a window, and the batches of all windows shuffled again: every row is as likely in any
    batch as in a plain shuffle of windows. Processes take turns within a batch, so that each has
    rows of all its lengths, and together they see the batches that one process with as many rows at
    a time would see. All have the same number of batches; of the last one, which may be short, a
    part can be empty.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        batch_size: int,
        seed: int = 0,
        strategy: str = "sequential",
        rank: int = 0,
        size: int = 1,
        drop_last: bool = False,
    ) -> None:
        """Args:
        lengths: tokens of every row.
        batch_size: rows of a batch in one process.
        seed: of the order.
        strategy: ``group_by_length``, ``random`` or ``sequential``.
        rank, size: this process's number, and how many there are.
        drop_last: leave out the last batch where it is short.
        """
        self._lengths, self._batch, self._seed, self._strategy = (
            np.asarray(lengths),
            batch_size * size,
            seed,
            strategy,
        )
        self._rank, self._size, self._epoch = rank, size, 0
        # A training of less than one batch still has a step.
        self._drop_last = drop_last and len(self._lengths) > self._batch

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        full, short = divmod(len(self._lengths), self._batch)
        return full + (short > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(self) * self._batch, self._batch):
            yield order[start : start + self._batch][self._rank :: self._size].tolist()

    def _order(self) -> NDArray[np.int64]:
        count = len(self._lengths)
        if self._strategy == "sequential":
            return np.arange(count)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: NDArray[np.int64] = torch.randperm(count, generator=generator).numpy()
        if self._strategy == "random":
            return order
        window = 50 * self._batch
        for start in range(0, count, window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(-self._lengths[part], kind="stable")]
        full = order[: count // self._batch * self._batch].reshape(-1, self._batch)
        shuffled = torch.randperm(len(full), generator=generator).numpy()
        return np.concatenate([full[shuffled].reshape(-1), order[full.size :]])
