"""Dataset and data loader of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from prooftune.training.rows import TrainingRow
from prooftune.training.sampler import LengthGroupedBatchSampler

Batch = TypeVar("Batch")


class TrainingDataset(Dataset[TrainingRow]):
    """Rows by index, with their lengths."""

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TrainingRow:
        return self._rows[index]

    def lengths(self) -> NDArray[np.int32]:
        """Tokens of every row."""
        # Four bytes per row, and no list of Python integers for a million rows.
        return np.fromiter(map(len, self._rows), np.int32)


class EpochDataLoader(DataLoader[Any]):
    """A data loader whose sampler follows the epoch.

    It shards batches over the ranks itself: accelerate would pad the last batch with rows of the
    first one.
    """

    def __init__(
        self,
        rows: TrainingDataset,
        sampler: LengthGroupedBatchSampler,
        collator: Callable[[Sequence[TrainingRow]], dict[str, Any]],
        pin_memory: bool = False,
        prefetch: bool = False,
    ) -> None:
        """Create the loader.

        Args:
            rows: to load.
            sampler: indices of the rows of each batch.
            collator: makes a batch of rows.
            pin_memory: put batches into memory from which a GPU copies without the host's help.
            prefetch: make the next batch while the one before is computed on a GPU.
        """
        super().__init__(rows, batch_sampler=sampler, collate_fn=collator, pin_memory=pin_memory)
        self._sampler, self._prefetch = sampler, prefetch

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return one_ahead(batches) if self._prefetch else batches

    def set_epoch(self, epoch: int) -> None:
        # The Trainer calls this at the start of every epoch, also when it resumes.
        self._sampler.set_epoch(epoch)


def one_ahead(items: Iterator[Batch]) -> Iterator[Batch]:
    """The same items; a thread makes the next one while the caller uses the one before.

    A thread and no process: rows are tokens in this process's memory, and the caller mostly waits
    for a GPU. An exception of `items` is raised where its item is due.
    """
    end = object()
    with ThreadPoolExecutor(1, "prefetch") as executor:
        pending = executor.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = executor.submit(next, items, end)
            yield item  # type: ignore[misc]
