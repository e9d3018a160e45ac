"""Products in 8 bits are exactly what their rule says, by a slow computation of it; and near those
of 16-bit numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.test_fused import adapted, outcome
from engine.test_kernels import numbers, off
from prooftune.engine.fused import patching
from prooftune.engine.kernels import int8_linear
from prooftune.engine.kernels.int8_linear import QuantizedFrozenLinear

ROUNDING = 0.004
"""Of the norm: a product and what is added to it are rounded to bfloat16 one after another."""


@pytest.fixture(autouse=True)
def code() -> None:
    if not int8_linear.is_available():
        pytest.skip("no int8 products here: they need AVX512-VNNI and a C compiler")


def in_bytes(x: Tensor, group: int) -> Tensor:
    """Every `group` numbers of a row [n, any] as whole multiples of a 127th of the largest of them."""
    parts = x.float().view(len(x), -1, group)
    largest = parts.abs().amax(-1, keepdim=True)
    whole = torch.where(largest > 0, (parts * (127 / largest)).round(), 0.0)
    return (whole * (largest / 127)).view(x.shape)


def slowly(
    x: Tensor, weights: list[Tensor], lows: list[Tensor], ups: list[Tensor], group: int
) -> list[Tensor]:
    usual, largest = x.float().square().sum(0).sqrt(), torch.cat(weights).float().abs().amax(0)
    usual, largest = usual.clamp_min(usual.mean() / 100), largest.clamp_min(largest.mean() / 100)
    factors = (largest / usual).sqrt()
    return [
        in_bytes(x.float() * factors, group) @ in_bytes(w.float() / factors, group).T
        + low.float() @ up.float().T
        for w, low, up in zip(weights, lows, ups, strict=True)
    ]


def case(
    rows: int, depth: int, widths: list[int], rank: int
) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor], Tensor]:
    """x, weights, what the adapters' first products give, the adapters' B and A; x has a few large
    columns, as models do."""
    x = numbers(rows, depth) * torch.linspace(-3, 3, depth).exp().bfloat16()
    weights = [numbers(width, depth, seed=width) for width in widths]
    low = numbers(rows, rank * len(widths), seed=2)
    return (
        x,
        weights,
        low,
        [numbers(width, rank, seed=3) for width in widths],
        numbers(rank * len(widths), depth, seed=4),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 2, 5, 6, 7, 12, 40]),
    depth=st.sampled_from([32, 64, 96, 160, 576, 1536]),
    widths=st.lists(st.sampled_from([32, 64, 96, 192]), min_size=1, max_size=3),
    rank=st.sampled_from([2, 4, 16, 70]),
)
def test_they_are_what_the_rule_says(rows: int, depth: int, widths: list[int], rank: int) -> None:
    x, weights, low, ups, down = case(rows, depth, widths, rank)
    ours = QuantizedFrozenLinear(weights, x)
    lows = list(torch.split(low, rank, dim=1))
    group = max(n for n in (32, 64, 96, 128) if depth % n == 0)
    for got, wanted in zip(
        ours.forward(x, lows, ups), slowly(x, weights, lows, ups, group), strict=True
    ):
        assert got.shape == wanted.shape and off(got, wanted) < ROUNDING
    grads = [numbers(rows, width, seed=5 + i) for i, width in enumerate(widths)]
    group = max(n for n in (32, 64, 96, 128) if not any(width % n for width in widths))
    turned = in_bytes(torch.cat(weights).T.contiguous(), group)
    of_x = in_bytes(torch.cat(grads, 1), group) @ turned.T + low.float() @ down.float()
    assert off(ours.backward(grads, low, down), of_x) < ROUNDING


def test_they_are_near_products_of_16_bit_numbers() -> None:
    x, weights, low, ups, down = case(200, 576, [576, 192], 16)
    ours, lows = QuantizedFrozenLinear(weights, x), list(torch.split(low, 16, dim=1))
    got = ours.forward(x, lows, ups)
    wanted = [
        x.float() @ w.float().T + part.float() @ up.float().T
        for w, part, up in zip(weights, lows, ups, strict=True)
    ]
    assert all(off(a, b) < 0.012 for a, b in zip(got, wanted, strict=True))
    of_x = torch.cat(got, 1).float() @ torch.cat(weights).float() + low.float() @ down.float()
    assert off(ours.backward(got, low, down), of_x) < 0.012


def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    x, weights, low, ups, down = case(23, 96, [64, 32], 4)
    ours, lows = QuantizedFrozenLinear(weights, x), torch.split(low, 4, dim=1)
    whole = ours.forward(x, lows, ups)
    back = ours.backward(whole, low, down)
    for part in (slice(0, 1), slice(3, 10), slice(22, 23)):
        alone = ours.forward(x[part], [one[part] for one in lows], ups)
        assert all(torch.equal(a, b[part]) for a, b in zip(alone, whole, strict=True))
        assert torch.equal(ours.backward([one[part] for one in whole], low[part], down), back[part])


def test_the_number_of_threads_changes_nothing() -> None:
    x, weights, low, ups, down = case(40, 96, [64, 160], 4)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours = QuantizedFrozenLinear(weights, x)
            out = ours.forward(x, torch.split(low, 4, dim=1), ups)
            found.append([*out, ours.backward(out, low, down)])
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


def test_zeros_and_tiny_and_huge_numbers() -> None:
    x, weights, low, ups, _ = case(8, 64, [32], 2)
    low.zero_()
    ours = QuantizedFrozenLinear(weights, x)
    x[0], x[1], x[2] = 0, x[1] * 1e-15, x[2] * 1e15
    (got,), wanted = ours.forward(x, [low], ups), x.float() @ weights[0].float().T
    assert not got[0].any() and all(off(got[i], wanted[i]) < 0.03 for i in range(1, 8))
    assert not any(
        one.isnan().any()
        for one in QuantizedFrozenLinear(
            [torch.zeros_like(weights[0])], torch.zeros_like(x)
        ).forward(x, [low], ups)
    )


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(strange: float) -> None:
    """A training that diverges must show it."""
    x, weights, low, ups, down = case(8, 64, [32], 2)
    ours = QuantizedFrozenLinear(weights, x)
    x[3, 40] = strange
    (got,) = ours.forward(x, [low], ups)
    assert not got[3].isfinite().any() and got[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()
    assert not ours.backward([got], low, down)[3].isfinite().any()


def test_a_model_learns_about_the_same_and_is_asked_the_same(
    model_folders: dict[str, Path],
) -> None:
    model = adapted(model_folders["llama"], "bfloat16").train()
    exact = outcome(adapted(model_folders["llama"]).train())
    with patching.fused(model):
        plain = outcome(model)
        with int8_linear.use_int8_linear() as laid_out:
            ours = outcome(model)
            # Attention's output, gate and up, down; keys are no multiple of 32 wide.
            assert len(laid_out) == 3 * model.config.num_hidden_layers
            model.eval()
            asked = outcome(model)[0]
        assert torch.equal(asked, outcome(model)[0])
    assert 1e-4 < off(ours[0], plain[0]) < 0.05 and off(ours[0], exact[0]) < 0.05
    for name, wanted in exact[1].items():
        assert off(ours[1][name], wanted) < 0.15, name


@pytest.mark.parametrize("lora", [{"r": 3}, {"lora_dropout": 0.5}, {"use_dora": True}])
def test_what_does_not_fit_is_computed_as_before(
    model_folders: dict[str, Path], lora: dict[str, Any]
) -> None:
    model = adapted(model_folders["llama"], "bfloat16", **lora).train()
    with patching.fused(model), int8_linear.use_int8_linear() as laid_out:
        outcome(model)
    assert not laid_out


def test_sizes_and_dtypes_that_do_not_fit() -> None:
    x = numbers(4, 64)
    with int8_linear.use_int8_linear():
        for weight in (
            numbers(33, 64),
            numbers(32, 48),
            numbers(32, 64).float(),
            numbers(64, 32).T,
            numbers(32, 64),
        ):
            found = int8_linear.get_quantized(
                [weight.requires_grad_() if len(weight) == 64 else weight], [2], x
            )
            assert (found is not None) == (
                weight.shape == (32, 64)
                and weight.dtype == torch.bfloat16
                and weight.is_contiguous()
            )
        assert int8_linear.get_quantized([nn.Parameter(numbers(32, 64))], [2], x) is None
    assert int8_linear.get_quantized([numbers(32, 64)], [2], x) is None  # where it is not wanted
