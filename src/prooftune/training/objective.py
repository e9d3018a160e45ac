"""The module that is trained, and its loss over target tokens (instruction) or classes (head)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prooftune.engine.attention import backends
from prooftune.engine.attention.flex_layout import BLOCK
from prooftune.engine.batching import Batch
from prooftune.engine.forward import hidden_states, packed_hidden_states
from prooftune.engine.model_parts import get_backbone, get_output_head
from prooftune.engine.packing import PAD_MULTIPLE, PackedBatch
from prooftune.engine.uploads import upload
from prooftune.errors import Failure

MAX_LOGIT_TARGETS, LOGIT_TARGETS = 4096, 1024
"""Targets of a batch whose logits are computed at once, and in parts where there are more, as in
language modelling, where every token is a target."""


def summed_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None, label_smoothing: float
) -> Tensor:
    """Cross-entropy summed over targets, in nats.

    Summed and not averaged: the Trainer divides by the targets of the whole accumulation window.
    It divides by their number and not by their weights, whose mean over the training rows is 1: a
    batch with few rare labels then has a small gradient, and the mean gradient of all batches is
    that of the weighted loss over all rows.

    Args:
        logits: [targets, classes or tokens].
        labels: class indices or token ids, [targets].
        weights: of the targets, [targets]; None: all 1.
        label_smoothing: share of the target's probability that is spread over all classes.
    """
    if weights is None:
        return nn.functional.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=label_smoothing
        )
    losses = nn.functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=label_smoothing
    )
    return (losses * weights).sum()


def summed_binary_loss(logits: Tensor, sets: Tensor, label_smoothing: float) -> Tensor:
    """Binary cross-entropy, summed over rows and averaged over labels, in nats.

    The mean over labels is that of transformers' ``multi_label_classification``.

    Args:
        logits: [rows, labels].
        sets: 1 for the labels of a row, else 0, [rows, labels].
        label_smoothing: share of a target that is moved to the other side, halved.
    """
    targets = sets * (1 - label_smoothing) + label_smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses.mean(dim=1).sum()


class TuningModule(nn.Module):
    """The module that the Trainer trains: batches in, loss out.

    Attributes:
        model: the model to train.
        label_smoothing: share of the target's probability that is spread over all tokens (or
            classes) in training (Szegedy et al. 2016, arXiv 1512.00567).
        packed: whether batches are packed (`engine.packing`), which only our own attention
            supports.
        pad_multiple: multiple of tokens to which packed batches are filled up.
        causal: whether the engine computes the model; False for encoders.
        label_sets: labels of each target number, [sets, labels], where rows have several labels:
            the target of a row is then the number of its label set, and the loss binary
            cross-entropy. None: targets are classes or tokens.
    """

    causal = True

    def __init__(self, model: nn.Module, label_sets: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        # A number per row, so that batches are the same as those of a single label.
        self.label_sets = label_sets
        # The Trainer reads `config` from the module that it trains.
        self.config: Any = getattr(model, "config", None)
        self.label_smoothing = 0.0
        # Packed attention has no dropout.
        self.packed = backends.uses_own_attention(model) and not getattr(
            self.config, "attention_dropout", 0
        )
        # FlexAttention's kernel computes whole blocks.
        self.pad_multiple = BLOCK if backends.uses_flex(model) else PAD_MULTIPLE
        # FSDP shards the modules with these class names one by one.
        self._no_split_modules: Any = getattr(model, "_no_split_modules", None)
        # Tuples, which `nn.Module` does not register as children.
        self._all_modules: tuple[nn.Module, ...] = ()
        self._all_parameters: tuple[nn.Parameter, ...] = ()

    @contextmanager
    def fixed_structure(self) -> Iterator[None]:
        """List modules and parameters once; for blocks in which none is added, replaced or removed.

        The Trainer walks through all modules four times in every step: to set them to training
        mode, to clip gradients and to clear them. With adapters on every layer, a model of 135
        million parameters has 2,500 modules, and the walks take 5% of a step.
        """
        self._all_modules = tuple(self.modules())
        self._all_parameters = tuple(super().parameters())
        try:
            yield
        finally:
            self._all_modules, self._all_parameters = (), ()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        if self._all_parameters and recurse:
            return iter(self._all_parameters)
        return super().parameters(recurse)

    def train(self, mode: bool = True) -> Self:
        # Every module is compared, because evaluation sets some of them only.
        if self._all_modules and all(module.training is mode for module in self._all_modules):
            return self
        return super().train(mode)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        logit_positions: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        lengths: tuple[int, ...] | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch: the fields of a `PackedBatch` (with `lengths`) or of a
        `Batch` (with `attention_mask`); `weights` are factors of the targets' losses, [targets].

        Returns:
            ``loss_sum``: cross-entropy summed over the targets, in nats; ``count``: their number.
        """
        hidden = self.target_hidden_states(
            input_ids, position_ids, logit_positions, attention_mask, lengths
        )
        loss = self._loss_of_hidden(hidden, labels, weights)
        return {"loss_sum": loss, "count": target_count(labels)}

    def target_hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        logit_positions: Tensor,
        attention_mask: Tensor | None = None,
        lengths: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Hidden states [n, hidden] at the logit positions of a batch; arguments as of
        `forward`."""
        # The output head runs on label positions only, so the backbone is called and not the whole
        # model.
        backbone = get_backbone(self.model)
        if lengths is not None:
            hidden = packed_hidden_states(
                backbone, PackedBatch(input_ids, position_ids, lengths, logit_positions)
            )
        elif attention_mask is not None:
            hidden = hidden_states(
                backbone, Batch(input_ids, attention_mask, position_ids, logit_positions), None
            )
        else:
            raise TypeError("a batch has lengths or an attention mask")
        return hidden

    def _loss_of_hidden(self, hidden: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """The summed loss of hidden states [targets, hidden]."""
        if len(hidden) <= MAX_LOGIT_TARGETS:
            return self.target_loss(get_output_head(self.model)(hidden), labels, weights)

        def loss_of(logits: Tensor, part: Tensor) -> Tensor:
            factors = None if weights is None else weights[part]
            return self.target_loss(logits, labels[part], factors)[None]

        # Rows by number, so that each part finds its labels and weights.
        numbers = torch.arange(len(hidden), device=hidden.device)
        return self.in_parts(loss_of, hidden, numbers).sum()

    def in_parts(
        self, compute: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, targets: Tensor
    ) -> Tensor:
        """`compute(logits, targets)` of all hidden states, in parts where there are many.

        Args:
            compute: from logits [n, tokens] and targets [n] to a tensor [m].
            hidden: [targets, hidden].
            targets: [targets].
        """
        head = get_output_head(self.model)
        if len(hidden) <= MAX_LOGIT_TARGETS:
            return compute(head(hidden), targets)

        def of_part(part: Tensor, own: Tensor) -> Tensor:
            return compute(head(part), own)

        # Logits are recomputed in the backward pass: of 8,000 targets over a vocabulary of 128,000
        # they would take 4 GB in float32, and as much again for their gradient.
        return torch.cat(
            [
                checkpoint(
                    of_part,
                    hidden[start : start + LOGIT_TARGETS],
                    targets[start : start + LOGIT_TARGETS],
                    use_reentrant=False,
                )
                for start in range(0, len(hidden), LOGIT_TARGETS)
            ]
        )

    def target_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """The loss summed over targets, in nats; arguments as of `summed_loss`."""
        smoothing = self.label_smoothing if self.training else 0.0
        if self.label_sets is None:
            return summed_loss(logits, labels, weights, smoothing)
        sets = upload(self.label_sets, logits.device)[labels]
        return summed_binary_loss(logits.float(), sets, smoothing)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Called by the Trainer for ``gradient_checkpointing: true``."""
        model: Any = self.model
        model.enable_input_require_grads()  # or frozen embeddings would stop the gradient
        model.activation_checkpointing_enable(**options)

    def trainable_state(self) -> dict[str, Tensor]:
        """Trainable parameters by name, gathered from all ranks if they are sharded.

        If they are, every rank must call this.
        """
        trainable: Iterator[tuple[str, Any]] = (
            (n, p.detach()) for n, p in self.named_parameters() if p.requires_grad
        )
        return {
            name: (p.full_tensor() if _is_sharded(p) else p).contiguous() for name, p in trainable
        }

    def load_trainable(self, saved: Mapping[str, Tensor]) -> None:
        """Load what `trainable_state` returned.

        Raises:
            Failure: the names differ from those of the trainable parameters.
        """
        parameters: dict[str, Any] = {
            name: p for name, p in self.named_parameters() if p.requires_grad
        }
        if saved.keys() != parameters.keys():
            raise Failure("it was written with other trainable parameters")
        with torch.no_grad():
            for name, parameter in parameters.items():
                value = saved[name].to(parameter.device)
                if _is_sharded(parameter):
                    from torch.distributed.tensor import distribute_tensor

                    value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
                # In place: the optimizer holds references to these tensors.
                parameter.copy_(value)

    def start_from(self, pretrained: Mapping[str, Tensor]) -> None:
        """Take over the values of another training of the same model (`trainable_state`).

        The heads may differ: a classification head that the other training did not have keeps its
        first values, and an output head that this one does not have is left out.

        Raises:
            Failure: parameters of the backbone differ.
        """
        own = self.trainable_state()
        differing = own.keys() ^ pretrained.keys()
        if any(".layers." in name for name in differing) or differing >= own.keys():
            raise Failure("the pretrained weights are those of other trainable parameters")
        shared = {name: value for name, value in pretrained.items() if name in own}
        self.load_trainable({**own, **shared})

    @property
    def sharded(self) -> bool:
        """Whether every rank holds only a shard of each weight (FSDP)."""
        return any(_is_sharded(p) for p in self.parameters())


def target_count(labels: Tensor) -> Tensor:
    """Number of targets, as a scalar on their device."""
    # A fill and no copy from the host, for which the host would wait.
    return torch.full((), labels.numel(), device=labels.device)


def _is_sharded(parameter: object) -> bool:
    """Whether a parameter is a `DTensor`; checked by attribute, because importing the class takes a
    second."""
    return hasattr(parameter, "full_tensor")
