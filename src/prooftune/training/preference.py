"""Direct preference optimisation (DPO): training on pairs of a better and a worse answer.

Rafailov et al. 2023, arXiv 2305.18290. Both answers of a pair are packed as two rows behind the
prefix that all prompts share; those of the reference policy are computed once, before training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.model_parts import get_output_head
from prooftune.engine.precision import autocast
from prooftune.engine.uploads import upload
from prooftune.training.objective import TuningModule, target_count
from prooftune.training.rows import (
    TrainingRow,
    instruction_row,
    make_collator,
    validate_rows,
    weight_inputs,
)

REFERENCE_BATCH = 16
"""Pairs whose reference log-probabilities are computed together."""


class PreferenceRow(TrainingRow):
    """The chosen answer behind its prompt, and the rejected one behind the same prompt.

    Tokens, positions and targets of the rejected answer follow those of the chosen one.

    Attributes:
        reference: log-probability of the chosen answer minus that of the rejected one, in nats,
            under the reference policy.
    """

    __slots__ = ("_chosen", "reference")

    def __init__(
        self,
        chosen: TrainingRow,
        rejected: TrainingRow,
        reference: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        # One row of the Trainer holds both answers, so that shuffling, lengths and token counts
        # treat a pair as one example.
        shift = len(chosen)
        super().__init__(
            [*chosen.ids, *rejected.ids],
            [*chosen.label_positions, *(p + shift for p in rejected.label_positions)],
            [*chosen.targets, *rejected.targets],
            weight,
        )
        self._chosen = len(chosen), len(chosen.targets)
        self.reference = reference

    def answers(self) -> tuple[TrainingRow, TrainingRow]:
        """The chosen and the rejected answer as rows of their own."""
        (length, count), ids = self._chosen, self.ids
        positions, targets = self.label_positions, self.targets
        return (
            TrainingRow(ids[:length], positions[:count], targets[:count]),
            TrainingRow(ids[length:], [p - length for p in positions[count:]], targets[count:]),
        )


def preference_row(
    prompt: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    stop: int,
    weight: float = 1.0,
) -> PreferenceRow:
    """A pair by its token ids; the stop token is a part of both answers.

    Args:
        prompt: token ids after the shared prefix.
        chosen, rejected: token ids of the answers without the stop token.
        stop: id of the stop token.
        weight: factor of the pair's loss.

    Raises:
        UsageError: an answer contains the stop token.
    """
    # The prompt is repeated in both rows: only the prefix that all prompts begin with is shared,
    # and packed rows attend to nothing else.
    both = (instruction_row(prompt, answer, stop=stop) for answer in (chosen, rejected))
    better, worse = validate_rows(both, stop)
    return PreferenceRow(better, worse, weight=weight)


def dpo_losses(
    margins: Tensor, reference: Tensor, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The DPO loss of each pair, [pairs]: -log sigmoid(beta (margin - reference margin)).

    Args:
        margins: log-probability of the chosen answer minus that of the rejected one, [pairs].
        reference: the same under the reference policy, [pairs].
        beta: inverse strength of the implied penalty for leaving the reference policy.
        label_smoothing: probability that a pair's preference is the wrong way round (conservative
            DPO, Mitchell 2023, https://ericmitchell.ai/cdpo.pdf).
    """
    # The partition function of the implied reward cancels in the difference of the two answers.
    logits = beta * (margins - reference)
    log_sigmoid = nn.functional.logsigmoid
    if not label_smoothing:
        return -log_sigmoid(logits)
    return -(1 - label_smoothing) * log_sigmoid(logits) - label_smoothing * log_sigmoid(-logits)


def preference_collator(
    prefix: Sequence[int], packed: bool, multiple: int
) -> Callable[[Sequence[PreferenceRow]], dict[str, Any]]:
    """The Trainer's data collator: pairs -> keyword arguments of `PreferenceModule.forward`.

    Args:
        prefix, packed, multiple: as of `training.rows.make_collator`.
    """
    collate_answers = make_collator(prefix, packed, multiple)

    def collator(rows: Sequence[PreferenceRow]) -> dict[str, Any]:
        # Chosen and rejected alternate, which `margins` relies on.
        answers = [answer for row in rows for answer in row.answers()]
        batch = collate_answers(answers)
        # Answers have different lengths: every target carries the number of its answer, so that
        # sums over answers need no padding.
        counts = torch.tensor([len(answer.targets) for answer in answers], dtype=torch.long)
        weights = weight_inputs([TrainingRow([], [], [0], row.weight) for row in rows])
        return {
            **batch,
            # The Trainer counts `labels`, of which a pair has one.
            "labels": torch.zeros(len(rows), dtype=torch.long),
            "targets": batch["labels"],
            "answer_numbers": torch.arange(len(answers)).repeat_interleave(counts),
            "reference": torch.tensor([row.reference for row in rows]),
            **weights,
        }

    return collator


class PreferenceModule(TuningModule):
    """A causal model that is trained on pairs of answers.

    Attributes:
        beta: as of `dpo_losses`.
    """

    def __init__(self, model: nn.Module, beta: float) -> None:
        super().__init__(model)
        self.beta = beta

    def forward(  # type: ignore[override]
        self,
        labels: Tensor,
        targets: Tensor,
        answer_numbers: Tensor,
        reference: Tensor,
        weights: Tensor | None = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            labels: one entry for each pair, [pairs].
            targets: token ids of all answers, [targets].
            answer_numbers: answer to which each target belongs, [targets]; pair i has the answers
                2 i (chosen) and 2 i + 1 (rejected).
            reference: as of `dpo_losses`.
            weights: factors of the pairs' losses, [pairs].
            batch: the answers, as of `TuningModule.target_hidden_states`.

        Returns:
            ``loss_sum``: the DPO loss summed over pairs; ``count``: their number.
        """
        margins = self.margins(targets, answer_numbers, labels.numel(), **batch)
        smoothing = self.label_smoothing if self.training else 0.0
        losses = dpo_losses(margins, reference, self.beta, smoothing)
        loss = losses.sum() if weights is None else (losses * weights).sum()
        return {"loss_sum": loss, "count": target_count(labels)}

    def margins(self, targets: Tensor, answer_numbers: Tensor, pairs: int, **batch: Any) -> Tensor:
        """Log-probability of the chosen answer minus that of the rejected one, [pairs]."""
        hidden = self.target_hidden_states(**batch)
        # Logits of target positions only; those of the prompts are never computed.
        logits = get_output_head(self.model)(hidden).float()
        # Summed over an answer and not averaged: DPO is derived for whole sequences.
        log_probs = -nn.functional.cross_entropy(logits, targets, reduction="none")
        sums = log_probs.new_zeros(2 * pairs).index_add(0, answer_numbers, log_probs)
        chosen, rejected = sums.view(pairs, 2).unbind(dim=1)
        return chosen - rejected


def with_reference_policy(
    module: PreferenceModule,
    rows: Iterable[PreferenceRow],
    collator: Callable[[Sequence[PreferenceRow]], dict[str, Any]],
    device: torch.device,
) -> list[PreferenceRow]:
    """The rows with the module's present model as reference policy.

    Args:
        module: before training.
        rows: pairs.
        collator: from `preference_collator`.
        device: of the model.
    """

    remaining, result = iter(rows), []
    # Dropout of the adapter must not be in the reference.
    was_training = module.training
    module.eval()
    while part := list(islice(remaining, REFERENCE_BATCH)):
        inputs = {
            name: upload(value, device) if isinstance(value, Tensor) else value
            for name, value in collator(part).items()
            # Not arguments of `margins`.
            if name not in ("labels", "reference", "weights")
        }
        with torch.no_grad(), autocast(module.model):
            margins = module.margins(pairs=len(part), **inputs)
        for row, margin in zip(part, margins.tolist(), strict=True):
            row.reference = margin
        result += part
    module.train(was_training)
    return result
