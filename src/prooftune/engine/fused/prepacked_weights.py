"""Weights laid out once, as a processor's 16-bit products want them, where nothing is learned.

A product with a weight as the model keeps it brings the weight into blocks first, every time. For
the few rows of a step in which tokens are generated that is a third to a half of the product's
time; for a thousand rows it is little, so that training does without. The layout is oneDNN's own
for the weight, which PyTorch's compiler uses too; the results are those of plain products up to
rounding. It takes as much memory as the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

LARGEST = 2**30
"""Bytes of linear weights up to which a model's are kept a second time."""

_USED = ContextVar("weights are laid out", default=True)


@contextmanager
def without_prepacked_weights() -> Iterator[None]:
    """Meanwhile compute with the weights as they are, and lay out no more."""
    token = _USED.set(False)
    try:
        yield
    finally:
        _USED.reset(token)


def used() -> bool:
    """Whether to compute with what is laid out: where nothing is learned, and not among
    `without_prepacked_weights`."""
    return _USED.get() and not torch.is_grad_enabled()


class PrepackedWeight:
    """What is kept for one weight [out, in]; the weight itself is named in every call, and is not
    kept alive."""

    def __init__(self) -> None:
        self._of: tuple[int, int] | None = None
        self._sample: Tensor | None = None
        self._blocks: Tensor | None = None

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x Wᵀ; x [n, in], returns [n, out]. No gradient flows."""
        of = weight.data_ptr(), weight._version
        if self._blocks is None or of != self._of:
            self._of, self._sample = of, _some(weight).clone()
            self._blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return torch.ops.mkldnn._linear_pointwise(x, self._blocks, None, "none", [], "")  # type: ignore[no-any-return]

    def compare(self, weight: Tensor) -> None:
        """Forget what is kept if a sample of the weight has changed, behind PyTorch's count of
        changes (``weight.data``): peft merges like that."""
        if self._sample is not None and not torch.equal(self._sample, _some(weight)):
            self.forget()

    def forget(self) -> None:
        self._blocks = self._sample = None


def _some(weight: Tensor) -> Tensor:
    return weight.detach().view(-1)[
        :: weight.numel() // 64 | 1
    ]  # an odd step, which meets other columns in other rows


_KEPT = WeakTensorKeyDictionary()
"""By weight: a model with adapters has the weights of the model without."""


def prepack_weights(model: nn.Module) -> dict[nn.Linear, PrepackedWeight]:
    """The layers whose products gain by it: in bfloat16, on a processor for which oneDNN has such
    products, in one process.

    None of a model with more bytes than `LARGEST` in them. What is kept of their weights is
    forgotten: a model that is seen for the first time may be another around the same weights,
    changed meanwhile.
    """
    if (
        not torch._C._has_mkldnn
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        or (torch.distributed.is_available() and torch.distributed.is_initialized())
    ):
        return {}
    found = [
        child
        for module in model.modules()
        if not isinstance(module, nn.ModuleDict)  # adapters' own layers
        for child in module.children()
        if type(child) is nn.Linear and fits(child)
    ]
    if sum({layer.weight.data_ptr(): layer.weight.nbytes for layer in found}.values()) > LARGEST:
        return {}
    for layer in found:
        if layer.weight not in _KEPT:
            _KEPT[layer.weight] = PrepackedWeight()
        _KEPT[layer.weight].forget()
    return {layer: _KEPT[layer.weight] for layer in found}


def fits(layer: nn.Linear) -> bool:
    """Whether there are such products for this layer as it is now."""
    weight = layer.weight
    return (
        layer.bias is None
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and weight.is_contiguous()
        and type(weight) is nn.Parameter
        and not weight.is_inference()
    )
