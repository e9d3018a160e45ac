"""Training on the expected cost of the predicted label.

The policy is the softmax over the label scores, as at prediction. Its expected cost is a sum over
the label set, so that its gradient is exact and nothing is sampled: the policy gradient (REINFORCE,
Williams 1992) with all actions enumerated.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.batching import Batch
from prooftune.engine.compatibility import takes_tree_masks
from prooftune.engine.forward import compute_prefix_cache, hidden_states
from prooftune.engine.model_parts import base_model, get_backbone, get_output_head
from prooftune.engine.scoring import LabelTree, label_log_probs, label_tree, tree_batch
from prooftune.engine.uploads import upload, upload_numbers
from prooftune.training.objective import TuningModule, target_count
from prooftune.training.rows import TrainingRow, weight_inputs, with_weights
from prooftune.utils.disk_list import DiskBackedList


class RewardRow(TrainingRow):
    """A prompt, the index of its true label, and the reference policy.

    Attributes:
        reference: log-probability of every label under the reference policy, in nats.
    """

    __slots__ = ("reference",)

    def __init__(
        self, ids: Sequence[int], label: int, reference: Iterable[float], weight: float = 1.0
    ) -> None:
        super().__init__(ids, [], [label], weight)
        self.reference = array("f", reference)


@dataclass(frozen=True, slots=True)
class ScoredLabels:
    """The label set as it is scored behind every prompt.

    Attributes:
        prefix: token ids that all prompts start with.
        tree: the labels' tokens.
        divisors: what each label's log-probability is divided by, [labels].
    """

    prefix: Sequence[int]
    tree: LabelTree
    divisors: Tensor

    @classmethod
    def of(
        cls,
        prefix: Sequence[int],
        labels: Sequence[Sequence[int]],
        stop_token_id: int,
        *,
        normalize: bool = False,
    ) -> ScoredLabels:
        """The labels by their token ids; arguments as of `engine.scoring.score_labels`."""
        tree = label_tree(labels, stop_token_id)
        lengths = [len(terms) if normalize else 1 for terms in tree.label_terms]
        return cls(prefix, tree, torch.tensor(lengths, dtype=torch.float32))


def reward_rows(
    pairs: Iterable[tuple[Sequence[int], int]],
    reference: Iterable[Iterable[float]],
    weights: Iterable[float] | None = None,
) -> DiskBackedList[RewardRow]:
    """Training rows.

    Args:
        pairs: token ids of each prompt after the shared prefix, and the index of its true label.
        reference: log-probabilities of the labels under the reference policy, for each prompt.
        weights: factor of each row's loss. Default: 1.
    """
    return DiskBackedList(
        RewardRow(prompt, label, log_probs, weight)
        for ((prompt, label), weight), log_probs in zip(
            with_weights(pairs, weights), reference, strict=True
        )
    )


def reward_collator(labels: ScoredLabels) -> Callable[[Sequence[RewardRow]], dict[str, Any]]:
    """The Trainer's data collator: rows -> keyword arguments of `RewardModule.forward`.

    An empty list (a rank's shard of a short batch) becomes one row without a label, because every
    rank must take every step.
    """

    def collator(rows: Sequence[RewardRow]) -> dict[str, Any]:
        batch = tree_batch([row.ids for row in rows] or [[0]], labels.tree, len(labels.prefix))
        reference = torch.tensor([row.reference.tolist() for row in rows])
        return {
            **batch.tensors(),
            "labels": torch.tensor([row.targets[0] for row in rows], dtype=torch.long),
            "reference": reference.reshape(len(rows), len(labels.divisors)),
            **weight_inputs(rows),
        }

    return collator


def expected_costs(log_probs: Tensor, costs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Expected cost of each row under a policy over labels, with a penalty for leaving another one.

    Args:
        log_probs: of the policy, [rows, labels].
        costs: of predicting each label for the row's true one, [rows, labels].
        reference: log-probabilities of the reference policy, [rows, labels].
        beta: factor of the Kullback-Leibler divergence KL(policy || reference), in nats.

    Returns:
        [rows].
    """
    penalised = costs + beta * (log_probs - reference) if beta else costs
    return (log_probs.exp() * penalised).sum(dim=1)


class RewardModule(TuningModule):
    """A causal model whose label distribution is trained on expected cost.

    Attributes:
        labels: the label set.
        costs: of predicting each label (column) where another one is true (row), [labels, labels].
        beta: factor of the KL divergence from the reference policy.
    """

    def __init__(self, model: nn.Module, labels: ScoredLabels, costs: Tensor, beta: float) -> None:
        super().__init__(model)
        self.labels, self.costs, self.beta = labels, costs, beta
        # Trees need a 4D mask, which FlashAttention's kernels do not take.
        if labels.tree.tokens and not takes_tree_masks(model):
            base_model(model).set_attn_implementation("sdpa")

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logit_positions: Tensor,
        labels: Tensor,
        reference: Tensor,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            input_ids, attention_mask, position_ids, logit_positions: the fields of a batch from
                `tree_batch`.
            labels: indices of the true labels, [rows]; empty for a batch without rows.
            reference: as of `expected_costs`.
            weights: factors of the rows' losses, [rows].

        Returns:
            ``loss_sum``: the expected cost with its penalty, summed over rows; ``count``: rows.
        """
        batch = Batch(input_ids, attention_mask, position_ids, logit_positions)
        # The placeholder row of an empty shard has scores but no label.
        log_probs = self.label_log_probs(batch)[: labels.numel()]
        costs = upload(self.costs, log_probs.device)[labels]
        losses = expected_costs(log_probs, costs, reference, self.beta)
        loss = losses.sum() if weights is None else (losses * weights).sum()
        return {"loss_sum": loss, "count": target_count(labels)}

    def label_log_probs(self, batch: Batch) -> Tensor:
        """Log-probabilities of the labels, normalised over them, [rows, labels] in float32."""
        backbone, prefix = get_backbone(self.model), self.labels.prefix
        if prefix and _is_checkpointed(backbone):
            # transformers drops the cache where layers are recomputed in the backward pass.
            hidden = hidden_states(backbone, with_copied_prefix(batch, prefix), None)
        else:
            # Computed once per step; gradients flow back to it from every row.
            hidden = hidden_states(backbone, batch, compute_prefix_cache(backbone, prefix))
        logits = get_output_head(self.model)(hidden).float()
        scores = label_log_probs(logits, self.labels.tree)
        return torch.log_softmax(scores / upload(self.labels.divisors, scores.device), dim=1)


def with_copied_prefix(batch: Batch, prefix: Sequence[int]) -> Batch:
    """The same rows with the prefix's tokens in front of each, so that no cache is needed."""
    rows, length = batch.input_ids.shape
    added, device = len(prefix), batch.input_ids.device
    mask, ids = batch.attention_mask, upload_numbers([list(prefix)], device)
    if mask.dim() == 2:
        mask = torch.cat([mask.new_ones(rows, added), mask], dim=1)
    else:
        # [rows, 1, prefix, prefix + length]: the prefix is causal and sees nothing behind it.
        first = torch.ones(added, added + length, dtype=torch.bool, device=device).tril()
        mask = torch.cat([first.expand(rows, 1, -1, -1), mask], dim=2)
    positions = torch.arange(added, device=device).expand(rows, -1)
    at = batch.logit_positions
    return replace(
        batch,
        input_ids=torch.cat([ids.expand(rows, -1), batch.input_ids], dim=1),
        attention_mask=mask,
        position_ids=torch.cat([positions, batch.position_ids], dim=1),
        # Indices into the flattened rows, each of which is longer now.
        logit_positions=at + (torch.div(at, length, rounding_mode="floor") + 1) * added,
        row_lengths=None,
        last_position=None,
    )


def _is_checkpointed(backbone: nn.Module) -> bool:
    """Whether layers are recomputed in the backward pass."""
    return backbone.training and any(
        getattr(module, "gradient_checkpointing", False) for module in backbone.modules()
    )
