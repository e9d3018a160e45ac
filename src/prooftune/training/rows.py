"""Training rows, their validation, and the batches that are made of them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from prooftune.engine.batching import collate
from prooftune.engine.packing import PAD_MULTIPLE, pack_sequences
from prooftune.errors import UsageError
from prooftune.tasks.rendering import TokenPair
from prooftune.utils.disk_list import DiskBackedList

Item = TypeVar("Item")


class TrainingRow:
    """One training row, stored in four bytes per token.

    A row goes from here through `DiskBackedList`, `LengthGroupedBatchSampler` and `make_collator`
    to `TuningModule.forward`.

    Attributes:
        ids: input token ids after the shared prefix; for instructions these include the target,
            but not the stop token, which is only predicted.
        label_positions: indices in `ids` whose hidden states predict the targets.
        targets: the labels there: token ids, or one class index.
        weight: factor of the row's loss.
    """

    __slots__ = ("_ends", "_numbers", "weight")

    def __init__(
        self,
        ids: Sequence[int],
        label_positions: Sequence[int],
        targets: Sequence[int],
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        # One array per row instead of three lists: a Python list needs 8 bytes per token plus the
        # integers.
        self._numbers = array("i", chain(ids, label_positions, targets))
        self._ends = len(ids), len(ids) + len(label_positions)

    def __len__(self) -> int:
        """Number of input tokens."""
        return self._ends[0]

    @property
    def ids(self) -> list[int]:
        return self._numbers[: self._ends[0]].tolist()

    @property
    def label_positions(self) -> list[int]:
        return self._numbers[self._ends[0] : self._ends[1]].tolist()

    @property
    def targets(self) -> list[int]:
        return self._numbers[self._ends[1] :].tolist()


def instruction_rows(
    pairs: Iterable[TokenPair], stop: int, weights: Iterable[float] | None = None
) -> DiskBackedList[TrainingRow]:
    """Rows whose loss covers the target's tokens and the stop token only; in a conversation also
    what the assistant said earlier.

    Args:
        pairs: token ids of each prompt after the shared prefix, and of its target without the stop
            token; of a conversation also (start, end) of the assistant's earlier turns in the
            prompt, with their stop tokens.
        stop: id of the stop token.
        weights: factor of each row's loss. Default: 1.

    Raises:
        UsageError: a target contains the stop token.
    """
    rows = (
        instruction_row(*pair, stop=stop, weight=weight)
        for pair, weight in with_weights(pairs, weights)
    )
    return DiskBackedList(validate_rows(rows, stop))


def instruction_row(
    prompt: Sequence[int],
    target: Sequence[int],
    earlier: Sequence[tuple[int, int]] = (),
    *,
    stop: int,
    weight: float = 1.0,
) -> TrainingRow:
    """One row of `instruction_rows`, not validated."""
    # The stop token is trained like the others, or the model would not end its answers.
    answer, start = [*target, stop], len(prompt)
    spoken = [position for span in earlier for position in range(*span)]
    return TrainingRow(
        # The hidden state at position i predicts token i + 1, so the labels begin at the prompt's
        # last token.
        [*prompt, *answer[:-1]],
        [*(p - 1 for p in spoken), *range(start - 1, start + len(answer) - 1)],
        [*(prompt[p] for p in spoken), *answer],
        weight,
    )


def head_rows(
    pairs: Iterable[tuple[Sequence[int], int]], weights: Iterable[float] | None = None
) -> DiskBackedList[TrainingRow]:
    """Rows whose loss is the class's cross-entropy at the prompt's last token.

    Args:
        pairs: token ids of each prompt after the shared prefix, and its class index.
        weights: factor of each row's loss. Default: 1.
    """
    return DiskBackedList(
        TrainingRow(prompt, [len(prompt) - 1], [number], weight)
        for (prompt, number), weight in with_weights(pairs, weights)
    )


def with_weights(
    items: Iterable[Item], weights: Iterable[float] | None
) -> Iterator[tuple[Item, float]]:
    """Each item with its weight; 1 where there are none."""
    if weights is None:
        return ((item, 1.0) for item in items)
    return zip(items, weights, strict=True)


def validate_rows(rows: Iterable[TrainingRow], stop: int) -> Iterator[TrainingRow]:
    """Yield the rows, and reject rows without targets or without exactly one stop token.

    Raises:
        UsageError: naming the first bad row.
    """
    for number, row in enumerate(rows):
        targets = row.targets
        if not targets or targets[-1] != stop:
            raise UsageError(
                f"training row {number}: its target does not end with the stop token, so the "
                "model would never learn to stop"
            )
        positions = row.label_positions
        # After a stop token, the next trained token belongs to another turn.
        if any(
            token == stop and after == before + 1
            for token, before, after in zip(targets, positions, positions[1:], strict=False)
        ):
            raise UsageError(f"training row {number}: the stop token occurs inside the target")
        if len(row.label_positions) != len(targets):
            raise UsageError(
                f"training row {number}: {len(targets)} targets but "
                f"{len(row.label_positions)} label positions"
            )
        yield row


def make_collator(
    prefix: Sequence[int], packed: bool = True, multiple: int = PAD_MULTIPLE
) -> Callable[[Sequence[TrainingRow]], dict[str, Any]]:
    """The Trainer's data collator: rows -> keyword arguments of `TuningModule.forward`.

    The path of a training row from here:

    1. ``engine/packing.py`` packs the rows of a batch into one sequence.
    2. ``training/tuning_trainer.py`` moves the tensors to the device and calls
       `TuningModule.forward`.
    3. ``engine/forward.py`` runs the backbone: ``engine/attention/packed.py`` computes attention,
       ``engine/fused/`` the LoRA layers, norms and MLPs, ``engine/kernels/`` their C kernels.
    4. ``engine/sparse_last_layer.py`` and ``engine/model_parts.py`` compute logits at the row's
       label positions.
    5. `TuningModule.forward` returns the cross-entropy; ``training/tuning_trainer.py`` takes the
       step.

    An empty list (a rank's shard of a short batch) becomes one row without labels, because every
    rank must take every step.

    Args:
        prefix: token ids that all rows begin with.
        packed: pack the rows into one sequence after the shared prefix, without padding. Otherwise
            every row gets its own copy of the prefix, and all rows are padded to the longest.
        multiple: of tokens in a packed batch.
    """

    def collator(rows: Sequence[TrainingRow]) -> dict[str, Any]:
        rows = rows or [TrainingRow([0], [], [])]
        values: dict[str, Any]
        if packed:
            batch = pack_sequences(
                prefix, [r.ids for r in rows], [r.label_positions for r in rows], multiple
            )
            values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        else:
            # Padded rows repeat the prefix, so label positions move behind it.
            shift = len(prefix)
            values = collate(
                [[*prefix, *r.ids] for r in rows],
                [[p + shift for p in r.label_positions] for r in rows],
                0,
            ).tensors()
        return {
            **values,
            "labels": torch.tensor([t for r in rows for t in r.targets], dtype=torch.long),
            **weight_inputs(rows),
        }

    return collator


def weight_inputs(rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
    """``weights`` of the rows' targets in a batch, [targets]; nothing where all are 1."""
    if all(row.weight == 1.0 for row in rows):
        return {}
    return {"weights": torch.tensor([row.weight for row in rows for _ in row.targets])}
