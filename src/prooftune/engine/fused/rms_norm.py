"""RMSNorms that save no array of their own (`kernels.pointwise`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from prooftune.engine.autograd import SavedTensors
from prooftune.engine.kernels import pointwise


class Norm(Protocol):
    """An RMSNorm of transformers."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Any:
        """The norm's own computation."""


def rms_norm_forwards(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """The RMSNorms of a model, and the replacement for the forward of each."""
    same: dict[tuple[type, int, torch.dtype], bool] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 1 and hasattr(module, "variance_epsilon"):
            # Norms of one kind are tried once.
            kind = (type(module), weight.numel(), weight.dtype)
            if kind not in same:
                same[kind] = _is_rms_norm(cast(Norm, module))
            if same[kind]:
                yield module, _rms_norm_forward(cast(Norm, module))


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with a frozen weight [d]; x is [n, d]."""

    @staticmethod
    def forward(ctx: SavedTensors, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, inverse_rms = pointwise.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, inverse_rms, weight)
        return out

    @staticmethod
    def backward(ctx: SavedTensors, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse_rms, weight = ctx.saved_tensors
        grad_x = pointwise.rms_norm_backward(x, weight, inverse_rms, grads[0].contiguous())
        return grad_x, None, None


def _rms_norm_forward(norm: Norm) -> Callable[..., Any]:
    original = type(norm).forward

    def forward(x: Tensor) -> Any:
        return (
            _rms_norm(x, norm.weight, norm.variance_epsilon)
            if has_frozen_weight(norm, x)
            else original(norm, x)
        )

    return forward


def has_frozen_weight(norm: Norm, x: Tensor) -> bool:
    """Whether a norm's weight needs no gradient and has the dtype of x."""
    weight = norm.weight
    return weight.dtype == x.dtype and not (weight.requires_grad and torch.is_grad_enabled())


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    device = x.device.type
    if device != "cpu":
        # PyTorch's own GPU kernel is one pass in each direction. CUDA's autocast would return
        # float32, which the layers after the norm would have to cast back one by one.
        with torch.autocast(device, enabled=False):
            return nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
    out: Tensor = _RMSNorm.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight, eps
    )
    return out.view(x.shape)


def _is_rms_norm(module: Norm) -> bool:
    """Whether the module gives `_rms_norm` and its gradient on a few vectors.

    Some architectures' norms differ, such as Gemma's, which adds 1 to the weight.
    """
    weight = module.weight.detach()
    # Deterministic values of both signs and different sizes; a random generator's state stays
    # untouched.
    values = torch.linspace(-2, 3, 4 * weight.numel(), device=weight.device).sin().view(4, -1)
    results = []
    for forward in (module.forward, lambda x: _rms_norm(x, weight, module.variance_epsilon)):
        x = values.to(weight.dtype).requires_grad_()
        with torch.enable_grad():
            try:
                out = forward(x)
                results.append(
                    (
                        out.float(),
                        torch.autograd.grad((out.float() * values.flip(-1)).sum(), x)[0].float(),
                    )
                )
            # No such kernel for this dtype, here or in this PyTorch release.
            except (RuntimeError, AttributeError):
                return False
    return all(bool((a - b).norm() <= 0.02 * b.norm()) for a, b in zip(*results, strict=True))
