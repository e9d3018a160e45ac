"""Pointwise operations between a layer's matmuls, and their gradients, in few passes over memory.

With the compiled kernel (`pointwise.c`) one pass each, in float32; otherwise with PyTorch's
operators, in as few passes as they allow.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.kernels import build

MIN_ELEMENTS = 16_384
"""Number of elements from which the compiled kernel is faster."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (SwiGLU, arXiv 2002.05202), for arrays of one shape."""
    if not _is_supported(gate, up) or gate.shape != up.shape:
        # In place on the temporary of silu: one array less.
        return nn.functional.silu(gate).mul_(up)
    out = torch.empty_like(gate)
    build.call(_library(gate.dtype), "swiglu", gate, up, out, gate.numel())
    return out


def swiglu_backward(
    gate: Tensor, up: Tensor, grad: Tensor, overwrite_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up from the gradient of `swiglu`.

    Args:
        gate, up: inputs of `swiglu`.
        grad: gradient of its result.
        overwrite_grad: whether the memory of `grad` may take the gradient of up.
    """
    if not _is_supported(gate, up, grad) or not gate.shape == up.shape == grad.shape:
        grad_up = nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up
    grad_gate, grad_up = torch.empty_like(gate), grad if overwrite_grad else torch.empty_like(up)
    build.call(
        _library(gate.dtype), "swiglu_backward", gate, up, grad, grad_gate, grad_up, gate.numel()
    )
    return grad_gate, grad_up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean x² + eps) · weight (RMSNorm, arXiv 1910.07467).

    Args:
        x: [n, d].
        weight: [d].
        eps: added to the mean square.

    Returns:
        [n, d], and the inverse root mean squares 1 / sqrt(mean x² + eps) [n] for the gradient.
    """
    if _is_supported(x, weight):
        return _compiled_rms_norm(x, None, weight, eps)[1:]
    # The norm accumulates in float32 without a float32 copy of x.
    squares = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square_().div_(x.shape[-1])
    # A batch norm in evaluation mode whose channels are the tokens, with mean 0 and this variance:
    # one pass, in float32.
    out = torch.native_batch_norm(
        x[None], None, None, torch.zeros_like(squares), squares, False, 0.0, eps
    )[0][0]
    return out.mul_(weight), squares.add_(eps).rsqrt_()


def add_rms_norm(
    x: Tensor, addend: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x + addend [n, d], and the results of `rms_norm` of it."""
    if _is_supported(x, addend, weight) and x.shape == addend.shape:
        return _compiled_rms_norm(x, addend, weight, eps)
    total = x + addend
    return total, *rms_norm(total, weight, eps)


def _compiled_rms_norm(
    x: Tensor, addend: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    total = x if addend is None else torch.empty_like(x)
    out, inverse_rms = torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.float32)
    build.call(
        _library(x.dtype),
        "rms_norm",
        x,
        addend,
        weight,
        float(eps),
        total,
        out,
        inverse_rms,
        *x.shape,
    )
    return total, out, inverse_rms


def rms_norm_backward(
    x: Tensor, weight: Tensor, inverse_rms: Tensor, grad: Tensor, addend: Tensor | None = None
) -> Tensor:
    """Gradient of x from the gradient of `rms_norm`, for a frozen weight.

    Without the compiled kernel it is LayerNorm's gradient for a mean of zero, plus the part that
    LayerNorm subtracts for the mean.

    Args:
        x: [n, d].
        weight: [d].
        inverse_rms: result of `rms_norm`.
        grad: [n, d].
        addend: another gradient of x, to which this one is added. None: none.
    """
    others = [] if addend is None else [addend]
    if _is_supported(x, weight, grad, *others) and all(t.shape == x.shape for t in (grad, *others)):
        out = torch.empty_like(x)
        build.call(
            _library(x.dtype),
            "rms_norm_backward",
            grad,
            x,
            weight,
            inverse_rms,
            addend,
            out,
            *x.shape,
        )
        return out
    size, inverse_rms, weight_float32 = x.shape[-1], inverse_rms[:, None], weight.float()
    grad_x: Tensor = torch.ops.aten.native_layer_norm_backward(
        grad,
        x,
        [size],
        torch.zeros_like(inverse_rms),
        inverse_rms,
        weight_float32,
        torch.zeros_like(weight_float32),
        [True, False, False],
    )[0]
    # LayerNorm subtracts the mean of the weighted gradient, RMSNorm does not: add it back.
    mean = torch.mv(grad, weight).float().div_(size).mul_(inverse_rms.view(-1))
    grad_x.add_(mean.to(x.dtype)[:, None])
    return grad_x if addend is None else grad_x.add_(addend)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, backward: bool = False) -> Tensor:
    """x · cos + (-second half of x, first half of x) · sin (RoPE, arXiv 2104.09864).

    Args:
        x: [..., heads, tokens, size]; with `backward`, the gradient of the result.
        cos, sin: [..., 1, tokens, size].
        backward: compute the gradient of x instead.

    Returns:
        Like x.
    """
    # Attention layers make x as [tokens, heads, size] in memory and transpose it.
    tokens_first = x.transpose(-3, -2)
    if (
        x.dim() == 4
        and x.shape[-1] % 32 == 0
        and cos.shape == sin.shape == (1, 1, *x.shape[2:])
        and len(x) == 1
        and _is_supported(tokens_first, cos, sin)
    ):
        out = torch.empty_like(x)  # with the strides of x
        build.call(
            _library(x.dtype),
            "apply_rope",
            x,
            cos,
            sin,
            out,
            *tokens_first.shape[1:],
            int(backward),
        )
        return out
    (first, second), (sin_first, sin_second) = x.chunk(2, -1), sin.chunk(2, -1)
    out = x * cos
    out_first, out_second = out.chunk(2, -1)
    out_first.addcmul_(second, sin_second if backward else sin_first, value=1 if backward else -1)
    out_second.addcmul_(first, sin_first if backward else sin_second, value=-1 if backward else 1)
    return out


def _is_supported(first: Tensor, *others: Tensor) -> bool:
    dtype = first.dtype
    # A loop and no generator: this runs 180 times in a training step of a small model.
    for t in (first, *others):
        if t.dtype != dtype or t.device.type != "cpu" or not t.is_contiguous():
            return False
    return first.numel() >= MIN_ELEMENTS and first.shape[-1] % 16 == 0 and is_available(dtype)


def _library(dtype: torch.dtype) -> Any:
    return build.load_library("pointwise", dtype)


@cache
@torch.inference_mode(False)
def is_available(dtype: torch.dtype) -> bool:
    """Whether the compiled kernel exists and gives PyTorch's results on a small example."""
    library = _library(dtype) if dtype in build.TOLERANCES else None
    if library is None:
        return False
    generator = torch.Generator().manual_seed(0)
    x, y, grad = (3 * torch.randn(4, 32, generator=generator) for _ in range(3))
    x, y, grad = (t.to(dtype).float().requires_grad_() for t in (x, y, grad))
    weight = torch.linspace(0.5, 1, 32).to(dtype).float()
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        expected = [nn.functional.silu(x) * y, nn.functional.rms_norm(x, (32,), weight, 1e-5)]
        cos, sin = (t.to(dtype).float() for t in (grad.detach().cos(), grad.detach().sin()))
        expected.append(x * cos + torch.cat([-x[:, 16:], x[:, :16]], dim=1) * sin)
        total = x + y
        expected += [
            *torch.autograd.grad(expected[0], [x, y], grad),
            *torch.autograd.grad(expected[1], x, grad),
            *torch.autograd.grad(expected[2], x, grad),
            total,
            nn.functional.rms_norm(total, (32,), weight, 1e-5),
        ]
        expected.append(expected[5] + y)
    actual = [torch.empty_like(x, dtype=dtype) for _ in expected]
    x, y, grad, weight, cos, sin = (t.detach().to(dtype) for t in (x, y, grad, weight, cos, sin))
    inverse_rms, unused = torch.empty(4), torch.empty(4)
    call = partial(build.call, library)
    call("swiglu", x, y, actual[0], 128)
    call("rms_norm", x, None, weight, 1e-5, None, actual[1], inverse_rms, 4, 32)
    call("apply_rope", x, cos, sin, actual[2], 4, 1, 32, 0)
    call("swiglu_backward", x, y, grad, actual[3], actual[4], 128)
    call("rms_norm_backward", grad, x, weight, inverse_rms, None, actual[5], 4, 32)
    call("apply_rope", grad, cos, sin, actual[6], 4, 1, 32, 1)
    call("rms_norm", x, y, weight, 1e-5, actual[7], actual[8], unused, 4, 32)
    call("rms_norm_backward", grad, x, weight, inverse_rms, y, actual[9], 4, 32)
    return all(
        bool((a.float() - b).norm() <= build.TOLERANCES[dtype] * b.norm())
        for a, b in zip(actual, expected, strict=True)
    )
