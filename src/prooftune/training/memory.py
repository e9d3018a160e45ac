"""Memory of a training on a GPU: whether to checkpoint activations, and how far to split batches.

What one row's forward pass saves for the backward pass is measured. From that, the rows' lengths
and the free memory follow gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) and the
number of micro-batches per batch. Neither changes the result but for rounding: the rows of a batch
are the same, and the loss is divided by the targets of all its micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

RESERVE = 0.1
"""Share of the free memory that is left for fragmentation and the kernels' own buffers."""

OPTIMIZER_BYTES = 16
"""Bytes per trainable weight: its float32 gradient, two moments of AdamW, and the temporary array
of its fused or foreach step."""

EFFICIENT_TOKENS = 2048
"""Tokens of a micro-batch from which a GPU is busy: a batch is split down to these before
activations are checkpointed, which computes every layer twice."""

BACKWARD_FACTOR = 1.15
"""Peak of the backward pass, with its temporary gradients, as a multiple of the saved arrays."""


@dataclass(frozen=True, slots=True)
class SavedBytes:
    """What a forward pass saves for the backward pass, in bytes per token.

    Attributes:
        layers: in all layers together.
        layer_input: the hidden state between two layers, which is all that checkpointing saves.
        num_layers: number of layers.
    """

    layers: float
    layer_input: float
    num_layers: int

    def per_token(self, checkpointing: bool) -> float:
        """Bytes per token at the peak: with checkpointing, inputs of all layers and one layer."""
        if not checkpointing:
            return BACKWARD_FACTOR * self.layers
        return self.num_layers * self.layer_input + BACKWARD_FACTOR * self.layers / self.num_layers


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How batches are computed.

    Attributes:
        checkpointing: whether layers are computed again in the backward pass.
        micro_batches: number of parts of every batch.
        bytes: estimated peak of activations.
        fits: whether that is within the free memory.
    """

    checkpointing: bool
    micro_batches: int
    bytes: float
    fits: bool


def plan_memory(
    saved: SavedBytes,
    lengths: Sequence[int],
    prefix_length: int,
    batch_size: int,
    free_bytes: float,
    *,
    checkpointing: bool | None = None,
) -> MemoryPlan:
    """Choose the fastest way to compute batches that fits into the memory.

    In this order: whole batches; parts of at least `EFFICIENT_TOKENS` tokens; checkpointing with as
    few parts as possible.

    Args:
        saved: what a token saves.
        lengths: tokens of each training row.
        prefix_length: tokens of the shared prefix, which every part computes once.
        batch_size: rows per batch.
        free_bytes: memory for activations.
        checkpointing: what the recipe says. None: chosen here.
    """
    # Rows of similar length share a batch, so one batch may hold the longest of all.
    longest = sorted(lengths, reverse=True)[:batch_size] or [1]
    size = len(longest)

    def tokens(parts: int) -> int:
        return prefix_length + sum(longest[: -(-size // parts)])

    def plan(checkpoint: bool, parts: int) -> MemoryPlan:
        peak = saved.per_token(checkpoint) * tokens(parts)
        return MemoryPlan(checkpoint, parts, peak, peak <= (1 - RESERVE) * free_bytes)

    choices = [False, True] if checkpointing is None else [checkpointing]
    for checkpoint in choices:
        for parts in range(1, size + 1):
            # The last choice may be split to any size: there is nothing else to try.
            last_choice = checkpoint == choices[-1]
            if parts > 1 and not last_choice and tokens(parts) < EFFICIENT_TOKENS:
                break  # checkpointing is cheaper than a GPU that waits for small batches
            candidate = plan(checkpoint, parts)
            if candidate.fits:
                return candidate
    return plan(choices[-1], size)


@contextmanager
def count_saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Count what autograd saves in the block; every array once, the model's weights not at all.

    Yields:
        A list whose only item is the number of bytes.
    """
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # Arrays are held until the end of the block, so that no address is used twice.
    held: dict[int, Tensor] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        # By storage, since views of one array are saved together.
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in weights and address not in held:
            held[address] = tensor
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total
    held.clear()


def free_bytes(device: torch.device, trainable: int) -> float | None:
    """Memory for activations on a GPU, after the optimiser's states; None on other devices.

    Args:
        device: of the model.
        trainable: number of trainable weights.
    """
    if device.type != "cuda":
        return None
    from prooftune.utils.profiling import available_memory

    available = available_memory()
    return None if available is None else available - OPTIMIZER_BYTES * trainable
