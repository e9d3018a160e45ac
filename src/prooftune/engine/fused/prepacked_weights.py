"""Weights prepacked once for a CPU's 16-bit matmuls, for inference.

A matmul with an ordinary weight reorders it into blocks first, every time. For the few rows of a
decode step this is a third to a half of the matmul's time; for a thousand rows it is little, so
training does without. The blocked format is oneDNN's own, which torch.compile uses too; results are
those of ordinary matmuls up to rounding. Prepacking takes as much memory again as the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

MAX_PREPACKED_BYTES = 2**30
"""Bytes of linear weights up to which a model's weights are prepacked."""

_ENABLED = ContextVar("prepacked weights are enabled", default=True)


@contextmanager
def without_prepacked_weights() -> Iterator[None]:
    """Compute with the original weights, and prepack no more, for the duration of the block."""
    token = _ENABLED.set(False)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def prepacking_enabled() -> bool:
    """Whether to use prepacked weights: without gradients, outside `without_prepacked_weights`."""
    return _ENABLED.get() and not torch.is_grad_enabled()


class PrepackedWeight:
    """The blocked copy of one weight [out, in].

    Every call is given the weight itself, so that the copy does not keep it alive.
    """

    def __init__(self) -> None:
        self._version: tuple[int, int] | None = None
        self._sample: Tensor | None = None
        self._blocks: Tensor | None = None

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """x Wᵀ without gradient.

        Args:
            x: [n, in].
            weight: [out, in]; packed at the first call, and again after PyTorch has counted a
                change.

        Returns:
            [n, out].
        """
        # PyTorch counts in-place changes of a tensor in `_version`.
        version = weight.data_ptr(), weight._version
        if self._blocks is None or version != self._version:
            self._version, self._sample = version, _sample(weight).clone()
            self._blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._blocks, None, "none", [], "")
        return out

    def invalidate_if_changed(self, weight: Tensor) -> None:
        """Drop the copy if a sample of the weight has changed.

        Finds changes that PyTorch's version counter misses (through ``weight.data``, as peft's
        merging does).
        """
        if self._sample is not None and not torch.equal(self._sample, _sample(weight)):
            self.invalidate()

    def invalidate(self) -> None:
        """Drop the copy."""
        self._blocks = self._sample = None


def _sample(weight: Tensor) -> Tensor:
    # An odd step, so that different rows are sampled in different columns.
    return weight.detach().view(-1)[:: weight.numel() // 64 | 1]


PREPACKED = WeakTensorKeyDictionary()
"""Prepacked copies by weight: a model with adapters has the weights of the model without."""


def prepack_weights(model: nn.Module) -> dict[nn.Linear, PrepackedWeight]:
    """The layers to prepack: in bfloat16, on a CPU with oneDNN's bfloat16 matmuls, in one process.

    Returns:
        Layers and their (still empty) copies; none if the weights exceed `MAX_PREPACKED_BYTES`.
        Existing copies are dropped: a model seen for the first time may be a new one around weights
        that have changed.
    """
    if (
        not torch._C._has_mkldnn
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        or (torch.distributed.is_available() and torch.distributed.is_initialized())
    ):
        return {}
    layers = [
        child
        for module in model.modules()
        if not isinstance(module, nn.ModuleDict)  # adapters' own layers
        for child in module.children()
        if type(child) is nn.Linear and can_prepack(child)
    ]
    # By address, so that tied weights count once.
    total = sum({layer.weight.data_ptr(): layer.weight.nbytes for layer in layers}.values())
    if total > MAX_PREPACKED_BYTES:
        return {}
    for layer in layers:
        if layer.weight not in PREPACKED:
            PREPACKED[layer.weight] = PrepackedWeight()
        PREPACKED[layer.weight].invalidate()
    return {layer: PREPACKED[layer.weight] for layer in layers}


def can_prepack(layer: nn.Linear) -> bool:
    """Whether oneDNN has a prepacked matmul for this layer as it is now."""
    weight = layer.weight
    return (
        layer.bias is None
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.is_contiguous()
        # bitsandbytes and others subclass Parameter and store packed data in it.
        and type(weight) is nn.Parameter
        # Tensors made in inference mode have no version counter.
        and not weight.is_inference()
    )
