"""Compiled float32 kernels match PyTorch, on CPUs with AVX2 or NEON."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_reference import (
    assert_independent_of_threads,
    assert_rope_in_attention_is_rope_before,
    attend,
    reference,
    relative_error,
)
from prooftune.engine.kernels import attention, build, lora_linear, pointwise

pytestmark = pytest.mark.kernel
EXACT = 2e-6
"""Relative error: sums of some hundred float32 products."""


@pytest.fixture(autouse=True)
def code() -> None:
    if reason := build.why_unsupported(torch.float32):
        pytest.skip(f"no compiled code here: {reason}")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_inputs(prefix: int, lengths: list[int], groups: int, size: int) -> list[Tensor]:
    tokens = prefix + sum(lengths)
    return [
        randn(tokens, n, size, seed=n + i).requires_grad_()
        for i, n in enumerate((2 * groups, 2, 2))
    ]


def test_kernels_are_available() -> None:
    assert pointwise.is_available(torch.float32)
    assert all(attention.is_available(size, torch.float32) for size in (32, 64))
    assert not pointwise.is_available(torch.float16)
    assert not attention.is_available(64, torch.float16)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    prefix=st.sampled_from([0, 1, 5, 16, 33, 130]),
    lengths=st.lists(st.sampled_from([1, 2, 7, 16, 33, 64, 65, 150]), min_size=1, max_size=4),
    groups=st.sampled_from([1, 3]),
    size=st.sampled_from([32, 64]),
    window=st.sampled_from([None, 1, 3, 40, 100]),
)
def test_attention_and_its_gradients(
    prefix: int, lengths: list[int], groups: int, size: int, window: int | None
) -> None:
    inputs = random_inputs(prefix, lengths, groups, size)
    assert attention.is_supported(inputs[0], inputs[1], inputs[2], 0.2, None)
    actual = attend(inputs, prefix, lengths, window)
    expected = reference(inputs, prefix, lengths, window)
    assert relative_error(actual, expected) < EXACT
    grad = randn(*actual.shape, seed=9)
    ours, exact = (torch.autograd.grad(out, inputs, grad) for out in (actual, expected))
    for a, b in zip(ours, exact, strict=True):
        # Tokens that attend to little but themselves have gradients that are differences of nearly
        # equal numbers.
        assert (a - b).norm() < EXACT * (b.norm() + grad.norm())


def test_number_of_threads_does_not_change_results() -> None:
    lengths = [130, 64, 9, 300]
    assert_independent_of_threads(random_inputs(20, lengths, 3, 32), 20, lengths)


def test_rope_in_attention() -> None:
    lengths = [130, 1, 32]
    assert_rope_in_attention_is_rope_before(random_inputs(20, lengths, 3, 64), 20, lengths)


def test_rising_scores_and_nan() -> None:
    """Scores that rise by hundreds rescale the accumulators; a NaN stays in its row."""
    query, key, value = (tensor.detach() for tensor in random_inputs(0, [300], 1, 32))
    query, key = query.abs(), key.abs() * torch.linspace(0, 12, 300)[:, None, None].sin() * 20
    inputs = [query, key, value]
    assert relative_error(attend(inputs, 0, [300]), reference(inputs, 0, [300])) < 1e-5
    query[50, 0, 3] = torch.nan
    out = attend([query, key, value], 0, [300])
    assert out[50, 0].isnan().all() and not out[:50].isnan().any() and not out[:, 1].isnan().any()


def test_swiglu_and_rms_norm() -> None:
    gate, up, grad = (randn(130, 256, seed=i) * 10**i for i in range(3))
    gate[0, :8] = torch.tensor([-1e30, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30])
    exact = [t.clone().requires_grad_() for t in (gate, up)]
    expected = torch.nn.functional.silu(exact[0]) * exact[1]
    torch.testing.assert_close(
        pointwise.swiglu(gate, up), expected.detach(), atol=1e-30, rtol=EXACT
    )
    for a, b in zip(
        pointwise.swiglu_backward(gate, up, grad),
        torch.autograd.grad(expected, exact, grad),
        strict=True,
    ):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)
    x = up.clone().requires_grad_()
    expected = torch.nn.functional.rms_norm(x, (256,), gate[1], 1e-5)
    out, inverse = pointwise.rms_norm(up, gate[1].contiguous(), 1e-5)
    assert relative_error(out, expected) < EXACT
    ours = pointwise.rms_norm_backward(up, gate[1].contiguous(), inverse, grad)
    assert relative_error(ours, torch.autograd.grad(expected, x, grad)[0]) < EXACT
    total, normed, _ = pointwise.add_rms_norm(gate, up, gate[1].contiguous(), 1e-5)
    assert torch.equal(total, gate + up)
    assert torch.equal(normed, pointwise.rms_norm(total, gate[1].contiguous(), 1e-5)[0])
    both = pointwise.rms_norm_backward(up, gate[1].contiguous(), inverse, grad, grad)
    assert torch.equal(both, ours + grad)


def test_rope() -> None:
    x, grad = (randn(1, 130, 3, 64, seed=i).transpose(1, 2) for i in range(2))
    cos, sin = randn(1, 1, 130, 64, seed=2).cos(), randn(1, 1, 130, 64, seed=2).sin()
    wide = x.clone().requires_grad_()
    expected = wide * cos + torch.cat([-wide[..., 32:], wide[..., :32]], dim=-1) * sin
    assert relative_error(pointwise.apply_rope(x, cos, sin), expected) < EXACT
    ours = pointwise.apply_rope(grad, cos, sin, backward=True)
    assert relative_error(ours, torch.autograd.grad(expected, wide, grad)[0]) < EXACT


def test_matmuls_are_left_to_pytorch_where_its_vectors_are_wider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PROOFTUNE_COMPILE", "avx2")
    assert not build.has_wider_vectors()
    monkeypatch.setenv("PROOFTUNE_COMPILE", "1")
    for flags in ({"avx2", "fma"}, {"avx2", "fma", "avx512f"}):
        monkeypatch.setattr(build, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert build.has_wider_vectors() is ("avx512f" in flags)
    assert not lora_linear.is_available.__wrapped__(torch.float32)


@pytest.mark.slow
@pytest.mark.skipif("avx2" not in build.cpu_flags(), reason="no AVX2 here")
def test_code_for_avx2_gives_the_same() -> None:
    code = (
        "from prooftune.engine.kernels import attention, build, lora_linear, pointwise;"
        "import torch;"
        "print(build.why_unsupported(), attention.is_available(64, torch.float32),"
        " pointwise.is_available(torch.float32), lora_linear.is_available(torch.float32))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROOFTUNE_COMPILE": "avx2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "PROOFTUNE_COMPILE is avx2 True True True\n", done.stderr
