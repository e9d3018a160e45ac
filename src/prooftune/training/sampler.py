"""Batch sampler: row order from seed and epoch alone, sharded over ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Row indices of this rank's shard of every batch.

    With ``group_by_length``, rows are shuffled, split into windows of 50 batches, sorted by length
    within each window, and the full batches are shuffled again. So rows of a batch have similar
    lengths (little padding) while the order of batches stays random.

    A batch is dealt out to the ranks row by row: each rank gets rows of all its lengths, and all
    ranks together see the batches of a single process with the same global batch size. Every rank
    has the same number of batches; its shard of a short last batch may be empty.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        batch_size: int,
        seed: int = 0,
        strategy: str = "sequential",
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        micro_batches: int = 1,
    ) -> None:
        """Configure the order.

        Args:
            lengths: tokens of every row.
            batch_size: rows per batch and rank.
            seed: of the shuffle.
            strategy: ``group_by_length``, ``random`` or ``sequential``.
            rank, world_size: this rank, and the number of ranks.
            drop_last: leave out a short last batch.
            micro_batches: parts in which every batch is yielded, for gradient accumulation; the
                rows of a batch are the same whatever their number.
        """
        self._lengths, self._batch_size, self._seed, self._strategy = (
            np.asarray(lengths),
            # Order and batches are made for all ranks together, so that their number does not
            # change the training.
            batch_size * world_size,
            seed,
            strategy,
        )
        self._rank, self._world_size, self._epoch = rank, world_size, 0
        self._micro_batches = micro_batches
        self._micro_size = -(-self._batch_size // micro_batches)
        # Fewer rows than one batch still make one step.
        self._drop_last = drop_last and len(self._lengths) > self._batch_size

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        full, short = divmod(len(self._lengths), self._batch_size)
        return full * self._micro_batches + (0 if self._drop_last else self._parts(short))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        end = len(order) // self._batch_size * self._batch_size if self._drop_last else len(order)
        for start in range(0, end, self._batch_size):
            batch = order[start : start + self._batch_size]
            shard = batch[self._rank :: self._world_size]
            # Every rank has the same number of parts; those of a short batch may be empty.
            for part in np.array_split(shard, self._parts(len(batch))):
                yield part.tolist()

    def _parts(self, rows: int) -> int:
        """Micro-batches of a batch of this many rows."""
        if rows == self._batch_size:
            return self._micro_batches
        return -(-rows // self._micro_size)

    def _order(self) -> NDArray[np.int64]:
        count = len(self._lengths)
        if self._strategy == "sequential":
            return np.arange(count)
        # Order from (seed, epoch) alone: a resumed run needs no stored generator state. The factor
        # keeps (seed, epoch + 1) and (seed + 1, epoch) apart.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: NDArray[np.int64] = torch.randperm(count, generator=generator).numpy()
        if self._strategy == "random":
            return order
        # Sorting within windows and not globally keeps the composition of batches random.
        window = 50 * self._batch_size
        for start in range(0, count, window):
            part = order[start : start + window]
            # A stable sort keeps the shuffled order of rows of equal length.
            order[start : start + window] = part[np.argsort(-self._lengths[part], kind="stable")]
        # The incomplete batch stays last; shuffled among the others, it would shift their rows.
        full = order[: count // self._batch_size * self._batch_size].reshape(-1, self._batch_size)
        shuffled = torch.randperm(len(full), generator=generator).numpy()
        return np.concatenate([full[shuffled].reshape(-1), order[full.size :]])
