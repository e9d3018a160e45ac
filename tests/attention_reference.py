"""Attention over a packed batch by its formula, and the compiled kernel's."""

from __future__ import annotations

import torch
from torch import Tensor

from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.attention.rope import apply_rope
from prooftune.engine.kernels import attention


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.float() - expected.float()).norm() / expected.float().norm()).detach())


def attend(
    inputs: list[Tensor],
    prefix: int,
    lengths: list[int],
    window: int | None = None,
    angles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    query, key, value = inputs
    layout = PackedLayout(prefix, lengths, query.device)
    return attention.flash_attention(query, key, value, layout, 0.2, window, angles)


def assert_rope_in_attention_is_rope_before(
    inputs: list[Tensor], prefix: int, lengths: list[int], window: int | None = None
) -> None:
    """The kernel that rotates queries and keys gives the bits of RoPE, then attention."""
    query, key, value = inputs
    tokens, _, size = query.shape
    phases = torch.linspace(0, 50, tokens * size).view(1, 1, tokens, size)
    cos, sin = phases.cos().to(query.dtype), phases.sin().to(query.dtype)
    before = [
        apply_rope(t.transpose(0, 1)[None], cos, sin).squeeze(0).transpose(0, 1)
        for t in (query, key)
    ]
    results = []
    for out in (
        attend(inputs, prefix, lengths, window, (cos, sin)),
        attend([*before, value], prefix, lengths, window),
    ):
        grad = torch.linspace(-1, 1, out.numel()).sin().view(out.shape).to(out.dtype)
        results.append([out, *torch.autograd.grad(out, inputs, grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(before[0], query)


def reference(
    inputs: list[Tensor], prefix: int, lengths: list[int], window: int | None = None
) -> Tensor:
    """Attention by its formula over a full score matrix, in float32."""
    query, key, value = inputs
    row_ids = torch.tensor(
        [0] * prefix + [n for n, length in enumerate(lengths, 1) for _ in range(length)]
    )
    positions = torch.tensor(
        [*range(prefix), *(prefix + i for length in lengths for i in range(length))]
    )
    visible = ((row_ids[None] == row_ids[:, None]) | (row_ids[None] == 0)) & (
        positions[None] <= positions[:, None]
    )
    if window is not None:
        visible &= positions[:, None] - positions[None] < window
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.float().repeat_interleave(groups, 1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * 0.2
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), value)


def assert_independent_of_threads(inputs: list[Tensor], prefix: int, lengths: list[int]) -> None:
    """The kernel's output and gradients are the same with 1, 2 and 8 threads.

    With 8 threads, a backward task of these tests is a query head instead of a key head.
    """
    num_threads, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            out = attend(inputs, prefix, lengths)
            results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    finally:
        torch.set_num_threads(num_threads)
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )
