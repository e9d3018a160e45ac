"""Dataset and data loader of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from prooftune.training.rows import TrainingRow
from prooftune.training.sampler import LengthGroupedBatchSampler


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
    ) -> None:
        super().__init__(rows, batch_sampler=sampler, collate_fn=collator, pin_memory=pin_memory)
        self._sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        # The Trainer calls this at the start of every epoch, also when it resumes.
        self._sampler.set_epoch(epoch)
