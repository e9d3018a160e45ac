"""What stands between the products of a layer, and its gradients, in few passes over its arrays.

By compiled code (`pointwise.c`) where there is any: one pass each, in float32; else by PyTorch's
operators, in as few as these can.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from prooftune.engine.kernels import build

FEWEST = 16_384
"""Numbers from which on compiled code is the faster."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up (SwiGLU, arXiv 2002.05202)."""
    if not _fits(gate, up) or gate.shape != up.shape:
        return nn.functional.silu(gate).mul_(up)
    out = torch.empty_like(gate)
    build.call(_library(), "gated", gate, up, out, gate.numel())
    return out


def swiglu_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Of gate and of up, from that of `gated`."""
    if not _fits(gate, up, grad) or not gate.shape == up.shape == grad.shape:
        of_up = nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), of_up
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    build.call(_library(), "gated_backward", gate, up, grad, of_gate, of_up, gate.numel())
    return of_gate, of_up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean x² + eps) · weight (RMSNorm, arXiv 1910.07467), x [n, d], weight [d]; and 1 /
    sqrt(mean x² + eps) [n]."""
    if _fits(x, weight):
        out, inverse = torch.empty_like(x), x.new_empty(len(x), dtype=torch.float32)
        build.call(_library(), "normed", x, weight, float(eps), out, inverse, *x.shape)
        return out, inverse
    squares = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square_().div_(x.shape[-1])
    # A batch norm in use, whose channels are the tokens, of mean zero and this variance: one pass,
    # in float32.
    out = torch.native_batch_norm(
        x[None], None, None, torch.zeros_like(squares), squares, False, 0.0, eps
    )[0][0]
    return out.mul_(weight), squares.add_(eps).rsqrt_()


def rms_norm_backward(x: Tensor, weight: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    """Of x, from that of `normed`, for a weight that does not learn.

    Without compiled code it is LayerNorm's for a mean of zero, plus the part that LayerNorm takes
    away for the mean.
    """
    if _fits(x, weight, grad) and x.shape == grad.shape:
        out = torch.empty_like(x)
        build.call(_library(), "normed_backward", grad, x, weight, inverse, out, *x.shape)
        return out
    size, inverse, wide = x.shape[-1], inverse[:, None], weight.float()
    of_x: Tensor = torch.ops.aten.native_layer_norm_backward(
        grad,
        x,
        [size],
        torch.zeros_like(inverse),
        inverse,
        wide,
        torch.zeros_like(wide),
        [True, False, False],
    )[0]
    mean = torch.mv(grad, weight).float().div_(size).mul_(inverse.view(-1))
    return of_x.add_(mean.to(x.dtype)[:, None])


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, backward: bool = False) -> Tensor:
    """x · cos + (-second half of x, first half of x) · sin (RoPE, arXiv 2104.09864); x [..., heads,
    tokens, size], cos and sin [..., 1, tokens, size]. Or, with `back`, the gradient of x from that
    of the result."""
    lines = x.transpose(-3, -2)
    if (
        x.dim() == 4
        and x.shape[-1] % 32 == 0
        and cos.shape == sin.shape == (1, 1, *x.shape[2:])
        and len(x) == 1
        and _fits(lines, cos, sin)
    ):
        out = torch.empty_like(x)  # laid out as x is
        build.call(_library(), "rotated", x, cos, sin, out, *lines.shape[1:], int(backward))
        return out
    (first, second), (low, high) = x.chunk(2, -1), sin.chunk(2, -1)
    out = x * cos
    one, other = out.chunk(2, -1)
    one.addcmul_(second, high if backward else low, value=1 if backward else -1)
    other.addcmul_(first, low if backward else high, value=-1 if backward else 1)
    return out


def _fits(first: Tensor, *others: Tensor) -> bool:
    return (
        first.numel() >= FEWEST
        and first.shape[-1] % 16 == 0
        and all(
            one.dtype == torch.bfloat16 and one.device.type == "cpu" and one.is_contiguous()
            for one in (first, *others)
        )
        and is_available()
    )


def _library() -> Any:
    return build.library("pointwise")


@cache
@torch.inference_mode(False)
def is_available() -> bool:
    """Whether there is compiled code, and it gives what the formulas do."""
    library = _library()
    if library is None:
        return False
    random = torch.Generator().manual_seed(0)
    x, y, grad = (3 * torch.randn(4, 32, generator=random) for _ in range(3))
    x, y, grad = (one.bfloat16().float().requires_grad_() for one in (x, y, grad))
    weight = torch.linspace(0.5, 1, 32).bfloat16().float()
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        wanted = [nn.functional.silu(x) * y, nn.functional.rms_norm(x, (32,), weight, 1e-5)]
        cos, sin = grad.detach().cos().bfloat16().float(), grad.detach().sin().bfloat16().float()
        wanted.append(x * cos + torch.cat([-x[:, 16:], x[:, :16]], dim=1) * sin)
        wanted += [
            *torch.autograd.grad(wanted[0], [x, y], grad),
            *torch.autograd.grad(wanted[1], x, grad),
            *torch.autograd.grad(wanted[2], x, grad),
        ]
    found = [torch.empty_like(x, dtype=torch.bfloat16) for _ in wanted]
    x, y, grad, weight, cos, sin = (
        one.detach().bfloat16() for one in (x, y, grad, weight, cos, sin)
    )
    inverse = torch.empty(4)
    build.call(library, "gated", x, y, found[0], 128)
    build.call(library, "normed", x, weight, 1e-5, found[1], inverse, 4, 32)
    build.call(library, "rotated", x, cos, sin, found[2], 4, 1, 32, 0)
    build.call(library, "gated_backward", x, y, grad, found[3], found[4], 128)
    build.call(library, "normed_backward", grad, x, weight, inverse, found[5], 4, 32)
    build.call(library, "rotated", grad, cos, sin, found[6], 4, 1, 32, 1)
    return all(
        bool((a.float() - b).norm() <= 0.02 * b.norm()) for a, b in zip(found, wanted, strict=True)
    )
