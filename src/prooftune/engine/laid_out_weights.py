"""Weights laid out once, as a processor's 16-bit products want them, where nothing is learned.

A product with a weight as the model keeps it brings the weight into blocks first, every time. For the few rows of a step in which
tokens are generated that is a third to a half of the product's time; for a thousand rows it is little, so that training does
without. The layout is oneDNN's own for the weight, which PyTorch's compiler uses too; the results are those of plain products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

LARGEST = 2**30
"""Bytes of linear weights up to which a model's are kept a second time."""


class LaidOut:
    """What is kept for one weight [out, in]; the weight itself is named in every call, and is not kept alive."""

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
        """Forget what is kept if the weight was changed behind PyTorch's count of changes (``weight.data``), as peft merges."""
        if self._sample is not None and not torch.equal(self._sample, _some(weight)):
            self._blocks = None


def _some(weight: Tensor) -> Tensor:
    return weight.detach()[0, :16]


_KEPT = WeakTensorKeyDictionary()
"""By weight: a model with adapters has the weights of the model without."""


def laid_out(model: nn.Module) -> dict[nn.Linear, LaidOut]:
    """The layers whose products gain by it: in bfloat16, on a processor with instructions for that, in one process.

    None of a model with more bytes than `LARGEST` in them.
    """
    if not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported() or (
            torch.distributed.is_available() and torch.distributed.is_initialized()):
        return {}
    found = [child for module in model.modules() if not isinstance(module, nn.ModuleDict)  # adapters' own layers
             for child in module.children() if type(child) is nn.Linear and _fits(child)]
    if sum({layer.weight.data_ptr(): layer.weight.nbytes for layer in found}.values()) > LARGEST:
        return {}
    for layer in found:
        if layer.weight not in _KEPT:
            _KEPT[layer.weight] = LaidOut()
    return {layer: _KEPT[layer.weight] for layer in found}


def _fits(layer: nn.Linear) -> bool:
    weight = layer.weight
    return (layer.bias is None and weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.is_contiguous()
            and type(weight) is nn.Parameter)
