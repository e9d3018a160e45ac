"""Training rows and loss of encoders with a classification head, for the same trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from prooftune.models.encoder import EncoderTokenizer
from prooftune.training.objective import TuningModule, target_count
from prooftune.training.rows import TrainingRow, weight_inputs, with_weights
from prooftune.types import Example
from prooftune.utils.disk_list import DiskBackedList


def encoder_rows(
    examples: Sequence[Example],
    tokenizer: EncoderTokenizer,
    labels: Sequence[str],
    weights: Iterable[float] | None = None,
) -> DiskBackedList[TrainingRow]:
    """Token ids, class index and weight (default: 1) of each example.

    Classes are `labels`, or the label sets where examples have several labels.

    The rows are those of the causal trainer: the start of a pair's second text is in
    `TrainingRow.label_positions`, whose other use, positions of targets, an encoder does not have.
    """
    classes = {label: number for number, label in enumerate(labels)}
    encoded = tokenizer.encode([example.inputs for example in examples])
    return DiskBackedList(
        TrainingRow(e.ids, [e.second_start], [classes[str(example.target)]], weight)
        for (e, example), weight in with_weights(zip(encoded, examples, strict=True), weights)
    )


def encoder_collator(
    tokenizer: EncoderTokenizer,
) -> Callable[[Sequence[TrainingRow]], dict[str, Tensor]]:
    """The Trainer's data collator: every batch is padded to its own longest row.

    An empty list (a rank's shard of a short batch) becomes one row without labels, because every
    rank must take every step.
    """

    def collator(rows: Sequence[TrainingRow]) -> dict[str, Tensor]:
        inputs = tokenizer.collate(
            [(row.ids, row.label_positions[0]) for row in rows] or [([tokenizer.any_token], 1)]
        )
        labels = torch.tensor([row.targets[0] for row in rows], dtype=torch.long)
        return {**inputs, "labels": labels, **weight_inputs(rows)}

    return collator


class EncoderModule(TuningModule):
    """An encoder as the module that `training.trainer.train` trains."""

    causal = False

    def forward(  # type: ignore[override]
        self, labels: Tensor, weights: Tensor | None = None, **inputs: Any
    ) -> dict[str, Tensor]:
        """The loss of a batch, summed over its rows.

        Args:
            labels: class indices [rows]; empty for a batch without rows.
            weights: factors of the rows' losses, [rows].
            inputs: of the model, [rows, tokens].
        """
        # The row that stands in for an empty shard has logits but no label.
        logits = self.model(**inputs).logits.float()[: labels.numel()]
        loss = self.target_loss(logits, labels, weights)
        return {"loss_sum": loss, "count": target_count(labels)}
