"""int8 matmuls follow the quantization rule exactly, and are close to 16-bit matmuls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attention_reference import relative_error
from engine.test_fused import load_lora, outcome
from engine.test_kernels import randn
from prooftune.engine.fused import patching
from prooftune.engine.kernels import int8_linear
from prooftune.engine.kernels.int8_linear import QuantizedFrozenLinear

ROUNDING = 0.004
"""Relative error of two roundings to bfloat16: frozen output, then sum with the adapter's."""


pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def code() -> None:
    if not int8_linear.is_available():
        pytest.skip("no int8 products here: they need AVX512-VNNI and a C compiler")


def quantize(x: Tensor, group: int) -> Tensor:
    """Round every `group` values of a row to multiples of 1/127 of the largest of them."""
    groups = x.float().view(len(x), -1, group)
    largest = groups.abs().amax(-1, keepdim=True)
    rounded = torch.where(largest > 0, (groups * (127 / largest)).round(), 0.0)
    return (rounded * (largest / 127)).view(x.shape)


def reference(
    x: Tensor, weights: list[Tensor], hiddens: list[Tensor], lora_bs: list[Tensor], group: int
) -> list[Tensor]:
    input_size, largest = x.float().square().sum(0).sqrt(), torch.cat(weights).float().abs().amax(0)
    input_size, largest = (
        input_size.clamp_min(input_size.mean() / 100),
        largest.clamp_min(largest.mean() / 100),
    )
    factors = (largest / input_size).sqrt()
    return [
        quantize(x.float() * factors, group) @ quantize(w.float() / factors, group).T
        + hidden.float() @ lora_b.float().T
        for w, hidden, lora_b in zip(weights, hiddens, lora_bs, strict=True)
    ]


def case(
    rows: int, depth: int, widths: list[int], rank: int
) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor], Tensor]:
    """Random x, weights, lora_hidden, every B, all A; x has a few large columns, as in models."""
    x = randn(rows, depth) * torch.linspace(-3, 3, depth).exp().bfloat16()
    weights = [randn(width, depth, seed=width) for width in widths]
    hidden = randn(rows, rank * len(widths), seed=2)
    return (
        x,
        weights,
        hidden,
        [randn(width, rank, seed=3) for width in widths],
        randn(rank * len(widths), depth, seed=4),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 2, 5, 6, 7, 12, 40]),
    depth=st.sampled_from([32, 64, 96, 160, 576, 1536]),
    widths=st.lists(st.sampled_from([32, 64, 96, 192]), min_size=1, max_size=3),
    rank=st.sampled_from([2, 4, 16, 70]),
)
def test_matches_the_quantization_rule(rows: int, depth: int, widths: list[int], rank: int) -> None:
    x, weights, hidden, lora_bs, lora_a = case(rows, depth, widths, rank)
    quantized = QuantizedFrozenLinear(weights, x)
    hiddens = list(torch.split(hidden, rank, dim=1))
    group = max(n for n in (32, 64, 96, 128) if depth % n == 0)
    for actual, expected in zip(
        quantized.forward(x, hiddens, lora_bs),
        reference(x, weights, hiddens, lora_bs, group),
        strict=True,
    ):
        assert actual.shape == expected.shape and relative_error(actual, expected) < ROUNDING
    grads = [randn(rows, width, seed=5 + i) for i, width in enumerate(widths)]
    group = max(n for n in (32, 64, 96, 128) if not any(width % n for width in widths))
    transposed = quantize(torch.cat(weights).T.contiguous(), group)
    grad_x = quantize(torch.cat(grads, 1), group) @ transposed.T + hidden.float() @ lora_a.float()
    assert relative_error(quantized.backward(grads, hidden, lora_a), grad_x) < ROUNDING


def test_close_to_16_bit_matmuls() -> None:
    x, weights, hidden, lora_bs, lora_a = case(200, 576, [576, 192], 16)
    quantized, hiddens = QuantizedFrozenLinear(weights, x), list(torch.split(hidden, 16, dim=1))
    actual = quantized.forward(x, hiddens, lora_bs)
    expected = [
        x.float() @ w.float().T + part.float() @ lora_b.float().T
        for w, part, lora_b in zip(weights, hiddens, lora_bs, strict=True)
    ]
    assert all(relative_error(a, b) < 0.012 for a, b in zip(actual, expected, strict=True))
    grad_x = (
        torch.cat(actual, 1).float() @ torch.cat(weights).float() + hidden.float() @ lora_a.float()
    )
    assert relative_error(quantized.backward(actual, hidden, lora_a), grad_x) < 0.012


def test_a_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    x, weights, hidden, lora_bs, lora_a = case(23, 96, [64, 32], 4)
    quantized, hiddens = QuantizedFrozenLinear(weights, x), torch.split(hidden, 4, dim=1)
    rounded = quantized.forward(x, hiddens, lora_bs)
    back = quantized.backward(rounded, hidden, lora_a)
    for part in (slice(0, 1), slice(3, 10), slice(22, 23)):
        alone = quantized.forward(x[part], [tensor[part] for tensor in hiddens], lora_bs)
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, rounded, strict=True))
        assert torch.equal(
            quantized.backward([tensor[part] for tensor in rounded], hidden[part], lora_a),
            back[part],
        )


def test_number_of_threads_does_not_change_results() -> None:
    x, weights, hidden, lora_bs, lora_a = case(40, 96, [64, 160], 4)
    num_threads, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            quantized = QuantizedFrozenLinear(weights, x)
            out = quantized.forward(x, torch.split(hidden, 4, dim=1), lora_bs)
            results.append([*out, quantized.backward(out, hidden, lora_a)])
    finally:
        torch.set_num_threads(num_threads)
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


def test_zero_tiny_and_huge_values() -> None:
    x, weights, hidden, lora_bs, _ = case(8, 64, [32], 2)
    hidden.zero_()
    quantized = QuantizedFrozenLinear(weights, x)
    x[0], x[1], x[2] = 0, x[1] * 1e-15, x[2] * 1e15
    (actual,), expected = quantized.forward(x, [hidden], lora_bs), x.float() @ weights[0].float().T
    assert not actual[0].any() and all(
        relative_error(actual[i], expected[i]) < 0.03 for i in range(1, 8)
    )
    assert not any(
        tensor.isnan().any()
        for tensor in QuantizedFrozenLinear(
            [torch.zeros_like(weights[0])], torch.zeros_like(x)
        ).forward(x, [hidden], lora_bs)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_stay_non_finite(value: float) -> None:
    """Divergence must not be hidden."""
    x, weights, hidden, lora_bs, lora_a = case(8, 64, [32], 2)
    quantized = QuantizedFrozenLinear(weights, x)
    x[3, 40] = value
    (actual,) = quantized.forward(x, [hidden], lora_bs)
    assert not actual[3].isfinite().any() and actual[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()
    assert not quantized.backward([actual], hidden, lora_a)[3].isfinite().any()


def test_training_is_close_and_inference_is_unchanged(
    model_folders: dict[str, Path],
) -> None:
    model = load_lora(model_folders["llama"], "bfloat16").train()
    exact = outcome(load_lora(model_folders["llama"]).train())
    with patching.fused(model):
        plain = outcome(model)
        with int8_linear.use_int8_linear() as quantized_weights:
            quantized = outcome(model)
            # Attention output, gate and up, down; the keys' width is no multiple of 32.
            assert len(quantized_weights) == 3 * model.config.num_hidden_layers
            model.eval()
            inference = outcome(model)[0]
        assert torch.equal(inference, outcome(model)[0])
    assert (
        1e-4 < relative_error(quantized[0], plain[0]) < 0.05
        and relative_error(quantized[0], exact[0]) < 0.05
    )
    for name, expected in exact[1].items():
        assert relative_error(quantized[1][name], expected) < 0.15, name


@pytest.mark.parametrize("lora", [{"r": 3}, {"lora_dropout": 0.5}, {"use_dora": True}])
def test_unsupported_layers_are_not_quantized(
    model_folders: dict[str, Path], lora: dict[str, Any]
) -> None:
    model = load_lora(model_folders["llama"], "bfloat16", **lora).train()
    with patching.fused(model), int8_linear.use_int8_linear() as quantized_weights:
        outcome(model)
    assert not quantized_weights


def test_unsupported_sizes_and_dtypes() -> None:
    x = randn(4, 64)
    with int8_linear.use_int8_linear():
        for weight in (
            randn(33, 64),
            randn(32, 48),
            randn(32, 64).float(),
            randn(64, 32).T,
            randn(32, 64),
        ):
            results = int8_linear.get_quantized(
                [weight.requires_grad_() if len(weight) == 64 else weight], [2], x
            )
            assert (results is not None) == (
                weight.shape == (32, 64)
                and weight.dtype == torch.bfloat16
                and weight.is_contiguous()
            )
        assert int8_linear.get_quantized([nn.Parameter(randn(32, 64))], [2], x) is None
    assert int8_linear.get_quantized([randn(32, 64)], [2], x) is None  # outside use_int8_linear
