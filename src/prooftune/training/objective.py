"""What is learned: the loss over target tokens (instruction) or over classes (head), and its
batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.attention import shared_prefix
from prooftune.engine.batching import Batch, collate
from prooftune.engine.forward import hidden_states, packed_hidden_states
from prooftune.engine.model_parts import get_backbone, get_output_head
from prooftune.engine.packing import PackedBatch, pack_sequences
from prooftune.errors import Failure, UsageError
from prooftune.utils.disk_list import DiskBackedList


class TrainingRow:
    """One training row, in four bytes for a token.

    Attributes:
        ids: token ids after the shared prefix; for instructions the target and its stop token
            included, except that the last of them is only ever predicted, never fed.
        label_positions: indices in `ids` whose hidden states predict the targets.
        targets: what is predicted there: token ids, or one class number.
    """

    __slots__ = ("_ends", "_numbers")

    def __init__(
        self, ids: Sequence[int], label_positions: Sequence[int], targets: Sequence[int]
    ) -> None:
        self._numbers = array("i", chain(ids, label_positions, targets))
        self._ends = len(ids), len(ids) + len(label_positions)

    def __len__(self) -> int:
        """Tokens that are fed."""
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
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]], stop: int
) -> DiskBackedList[TrainingRow]:
    """Rows whose loss is on the target's tokens and its stop token only.

    Args:
        pairs: ids of each prompt after the shared prefix, and of its target without the stop token.
        stop: id of the stop token.

    Raises:
        UsageError: a target holds the stop token.
    """

    def row(prompt: Sequence[int], target: Sequence[int]) -> TrainingRow:
        answer, start = [*target, stop], len(prompt)
        return TrainingRow(
            [*prompt, *answer[:-1]], range(start - 1, start + len(answer) - 1), answer
        )

    return DiskBackedList(validate_rows((row(*pair) for pair in pairs), stop))


def head_rows(pairs: Iterable[tuple[Sequence[int], int]]) -> DiskBackedList[TrainingRow]:
    """Rows whose loss is on the class, read at the prompt's last token.

    Args:
        pairs: ids of each prompt after the shared prefix, and its class number.
    """
    return DiskBackedList(
        TrainingRow(prompt, [len(prompt) - 1], [number]) for prompt, number in pairs
    )


def validate_rows(rows: Iterable[TrainingRow], stop: int) -> Iterator[TrainingRow]:
    """The rows; refuses those by which the model could not learn to stop, or by which nothing would
    be learned.

    Raises:
        UsageError: naming the first bad row.
    """
    for number, row in enumerate(rows):
        targets = row.targets
        if not targets or targets[-1] != stop:
            raise UsageError(
                f"training row {number}: its target does not end with the stop token, so the "
                "model would never "
                "learn to stop"
            )
        if targets.count(stop) > 1:
            raise UsageError(f"training row {number}: the stop token stands inside the target")
        if len(row.label_positions) != len(targets):
            raise UsageError(
                f"training row {number}: {len(targets)} targets but {len(row.label_positions)} places to "
                "learn them at"
            )
        yield row


def make_collator(prefix: Sequence[int], lines: bool = True) -> Any:
    """Build the Trainer's data_collator: rows to the keyword arguments of `TuningModule.forward`.

    The path of a training row from here:

    1. ``engine/packing.py`` packs the rows of a batch into one sequence.
    2. ``training/trainer.py`` moves the tensors to the device and calls `TuningModule.forward`.
    3. ``engine/forward.py`` runs the backbone: ``engine/attention/packed.py`` computes attention,
       ``engine/fused/`` the LoRA layers, norms and MLPs, ``engine/kernels/`` their C kernels.
    4. ``engine/sparse_last_layer.py`` and ``engine/model_parts.py`` compute logits at the row's
       label positions.
    5. `TuningModule.forward` returns the cross-entropy; ``training/trainer.py`` takes the step.

    An empty batch, which may be one process's part of a short batch, becomes a row without targets:
    every process must take every step.

    Args:
        prefix: token ids that all rows start with.
        lines: whether to pack rows behind the prefix; otherwise the prefix is put before every row
            and rows are padded to the longest.
    """

    def collator(rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
        batch: PackedBatch | Batch
        rows = rows or [TrainingRow([0], [], [])]
        if lines:
            batch = pack_sequences(prefix, [r.ids for r in rows], [r.label_positions for r in rows])
        else:
            shift = len(prefix)
            batch = collate(
                [[*prefix, *r.ids] for r in rows],
                [[p + shift for p in r.label_positions] for r in rows],
                0,
            )
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return {
            **values,
            "labels": torch.tensor([t for r in rows for t in r.targets], dtype=torch.long),
        }

    return collator


class TuningModule(nn.Module):
    """The module that the trainer sees: batches in, loss out.

    Attributes:
        model: the model that learns.
        label_smoothing: share of the target's probability that is spread over all tokens (or
            classes) while training (Szegedy et al. 2016, arXiv 1512.00567).
        lines: whether rows are packed (`engine.packing`), which our own attention supports.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # The Trainer looks this up on the module that it is given.
        self.config: Any = getattr(model, "config", None)
        ours = getattr(self.config, "_attn_implementation", None) == shared_prefix.NAME
        self.label_smoothing = 0.0
        self.lines = ours and not getattr(self.config, "attention_dropout", 0)
        # By these names FSDP finds the layers whose weights it spreads over the processes one by
        # one.
        self._no_split_modules: Any = getattr(model, "_no_split_modules", None)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        logit_positions: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``{"loss_sum": summed cross-entropy, "count": number of targets}``.

        Takes a `PackedBatch` or a `Batch`, field by field as the Trainer moves them to its device.
        """
        body = get_backbone(self.model)
        if lengths is not None:
            hidden = packed_hidden_states(
                body, PackedBatch(input_ids, position_ids, lengths, logit_positions)
            )
        elif attention_mask is not None:
            hidden = hidden_states(
                body, Batch(input_ids, attention_mask, position_ids, logit_positions), None
            )
        else:
            raise TypeError("a batch has lengths or an attention mask")
        logits = get_output_head(self.model)(hidden)
        loss = nn.functional.cross_entropy(
            logits,
            labels,
            reduction="sum",
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )
        return {"loss_sum": loss, "count": torch.tensor(labels.numel(), device=loss.device)}

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """What the Trainer calls for ``gradient_checkpointing: true``."""
        model: Any = self.model
        model.enable_input_require_grads()  # frozen embeddings would cut the gradient's path
        model.activation_checkpointing_enable(**options)

    def trainable_state(self) -> dict[str, Tensor]:
        """What is learned, by name; whole, where several processes hold a part of every weight each
        (then all must ask)."""
        learning: Iterator[tuple[str, Any]] = (
            (n, p.detach()) for n, p in self.named_parameters() if p.requires_grad
        )
        return {name: (p.full_tensor() if _is_part(p) else p).contiguous() for name, p in learning}

    def load_trainable(self, saved: Mapping[str, Tensor]) -> None:
        """Take what `trainable_state` gave.

        Raises:
            Failure: it is of other parameters.
        """
        parameters: dict[str, Any] = {
            name: p for name, p in self.named_parameters() if p.requires_grad
        }
        if saved.keys() != parameters.keys():
            raise Failure("it was made with other trainable parameters")
        with torch.no_grad():
            for name, parameter in parameters.items():
                value = saved[name].to(parameter.device)
                if _is_part(parameter):
                    from torch.distributed.tensor import distribute_tensor

                    value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
                parameter.copy_(value)

    @property
    def sharded(self) -> bool:
        """Whether this process holds a part of every weight only (FSDP)."""
        return any(_is_part(p) for p in self.parameters())


def _is_part(parameter: Any) -> bool:
    """Whether this process holds a part of a weight only. Asked of the tensor itself, whose class
    takes a second to import."""
    return hasattr(parameter, "full_tensor")
