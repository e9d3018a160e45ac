"""Compiled products of layers with adapters are the formulas', computed in float32, up to
bfloat16's rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.test_kernels import numbers, off
from prooftune.engine.kernels import build, lora_linear
from prooftune.engine.kernels.lora_linear import MIN_ROWS, LoraLinears

ROUNDING = 0.004
"""Of the norm: a product and what is added to it are rounded to bfloat16 one after another."""
SHAPES = [(32, 8), (64, 16), (96, 24), (160, 64)]
"""Widths of layers and ranks of their adapters."""


@pytest.fixture(autouse=True)
def code() -> None:
    if not lora_linear.is_available():
        pytest.skip("no compiled code here: it needs AVX512-BF16, no AMX, and a C compiler")


def layers_of(rows: int, depth: int, shapes: list[tuple[int, int]]) -> LoraLinears:
    frozen = [numbers(width, depth, seed=width) for width, _ in shapes]
    down, up = (
        [numbers(*shape, seed=i).float() / 3 for i, shape in enumerate(some)]
        for some in ([(rank, depth) for _, rank in shapes], shapes)
    )
    return LoraLinears(numbers(rows, depth, seed=rows), frozen, down, up, 0.5)


def grads_of(layers: LoraLinears) -> list[Tensor]:
    return [numbers(len(layers.x), len(w), seed=9 + i) for i, w in enumerate(layers.weights)]


def slowly(layers: LoraLinears) -> tuple[Tensor, list[Tensor]]:
    """The sums of the formulas, in float32, of what is rounded on the way in any case."""
    x, down, up = (
        layers.x.float(),
        *([one.bfloat16().float() for one in some] for some in (layers.lora_a, layers.lora_b)),
    )
    lows = [(layers.scaling * x @ a.T).bfloat16().float() for a in down]
    return torch.cat(lows, 1), [
        (x @ w.float().T).bfloat16().float() + low @ b.T
        for w, low, b in zip(layers.weights, lows, up, strict=True)
    ]


def slowly_back(layers: LoraLinears, low: Tensor, grads: list[Tensor]) -> list[Tensor]:
    x, down, up = (
        layers.x.float(),
        *([one.bfloat16().float() for one in some] for some in (layers.lora_a, layers.lora_b)),
    )
    of_lows = [
        (layers.scaling * grad.float() @ b).bfloat16().float()
        for grad, b in zip(grads, up, strict=True)
    ]
    of_x = sum(grad.float() @ w.float() for grad, w in zip(grads, layers.weights, strict=True))
    assert isinstance(of_x, Tensor)
    of_x = of_x.bfloat16().float() + sum(one @ a for one, a in zip(of_lows, down, strict=True))
    of_up = [
        grad.float().T @ part.float()
        for part, grad in zip(layers.split_hidden(low), grads, strict=True)
    ]
    return [torch.cat(of_lows, 1), of_x, *(one.T @ x for one in of_lows), *of_up]


def found(layers: LoraLinears, grads: list[Tensor]) -> list[Tensor]:
    """All that is computed, forward and backward."""
    low, outs = layers.forward()
    of_low, of_x, of_down, of_up = layers.backward(low, grads)
    assert of_x is not None
    return [low, *outs, of_low, of_x, *of_down, *of_up]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([MIN_ROWS, MIN_ROWS + 1, 135, 160, 259, 1025]),
    depth=st.sampled_from([32, 64, 96, 576]),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
)
def test_they_are_the_formulas(rows: int, depth: int, shapes: list[tuple[int, int]]) -> None:
    layers = layers_of(rows, depth, shapes)
    low, outs = layers.forward()
    wanted_low, wanted = slowly(layers)
    assert off(low, wanted_low) < ROUNDING
    for got, one in zip(outs, wanted, strict=True):
        assert got.shape == one.shape and got.dtype == torch.bfloat16 and off(got, one) < ROUNDING
    grads = grads_of(layers)
    of_low, of_x, of_down, of_up = layers.backward(low, grads)
    for back, one in zip(
        [of_low, of_x, *of_down, *of_up], slowly_back(layers, low, grads), strict=True
    ):
        assert back is not None and back.shape == one.shape and off(back, one) < ROUNDING
    assert all(one.dtype == torch.float32 for one in (*of_down, *of_up))


def test_what_an_adapter_adds_is_added_to_what_is_rounded() -> None:
    """As peft does it; numbers that lie between two in bfloat16 show it."""
    layers = layers_of(200, 576, [(192, 16)])
    low, (out,) = layers.forward()
    x, w, b = layers.x.float(), layers.weights[0].float(), layers.lora_b[0].bfloat16().float()
    added = low.float() @ b.T
    once, twice = (x @ w.T + added).bfloat16(), ((x @ w.T).bfloat16().float() + added).bfloat16()
    assert (out == twice).float().mean() > 0.99 > (out == once).float().mean()


def test_what_is_not_wanted_is_not_computed() -> None:
    layers = layers_of(MIN_ROWS, 64, SHAPES[:2])
    low, outs = layers.forward(with_outputs=False)
    assert outs == () and torch.equal(low, layers.forward()[0])
    grads = grads_of(layers)
    of_low, of_x, of_down, _ = layers.backward(low, grads, with_grad_x=False)
    whole = layers.backward(low, grads)
    assert (
        of_x is None and torch.equal(of_low, whole[0]) and all(map(torch.equal, of_down, whole[2]))
    )


def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    layers, back = layers_of(300, 96, SHAPES[1:3]), slice(3, 3 + MIN_ROWS + 2)
    grads = grads_of(layers)
    alone = LoraLinears(
        layers.x[back].contiguous(), layers.weights, layers.lora_a, layers.lora_b, layers.scaling
    )
    whole, part = found(layers, grads), found(alone, [grad[back].contiguous() for grad in grads])
    assert all(torch.equal(a[back], b) for a, b in zip(whole[:5], part[:5], strict=True))


def test_the_number_of_threads_changes_nothing() -> None:
    layers, before, seen = layers_of(1100, 96, SHAPES), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append(found(layers, grads_of(layers)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(strange: float) -> None:
    """A training that diverges must show it."""
    layers = layers_of(MIN_ROWS, 64, SHAPES[:1])
    layers.x[3, 40] = strange
    low, (out,) = layers.forward()
    assert not out[3].isfinite().any() and out[4:].isfinite().all()
    _, of_x, of_down, _ = layers.backward(low, [out])
    assert (
        of_x is not None and not of_x[3].isfinite().any() and not of_down[0][:, 40].isfinite().any()
    )


OTHERS = {
    "few rows": layers_of(MIN_ROWS - 1, 64, SHAPES[:2]),
    "a rank of 4": layers_of(150, 64, [(64, 4)]),
    "a width of 48": layers_of(150, 64, [(48, 8)]),
    "a depth of 40": layers_of(150, 40, [(64, 8)]),
}


@pytest.mark.parametrize("kind", [*OTHERS, "adapters in bfloat16", "rows apart"])
def test_other_shapes_are_computed_by_pytorch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = OTHERS.get(kind) or layers_of(150, 64, SHAPES[:2])
    if kind == "adapters in bfloat16":
        down, up = ([one.bfloat16() for one in some] for some in (layers.lora_a, layers.lora_b))
        layers = LoraLinears(layers.x, layers.weights, down, up, 0.5)
    if kind == "rows apart":
        layers = LoraLinears(
            numbers(150, 128)[:, :64], layers.weights, layers.lora_a, layers.lora_b, 0.5
        )
    monkeypatch.setattr(build, "call", lambda *_: pytest.fail("compiled code was called"))
    low, outs = layers.forward()
    for got, one in zip((low, *outs), (slowly(layers)[0], *slowly(layers)[1]), strict=True):
        assert off(got, one) < ROUNDING
    grads = grads_of(layers)
    of_low, of_x, of_down, of_up = layers.backward(low, grads)
    for back, one in zip(
        [of_low, of_x, *of_down, *of_up], slowly_back(layers, low, grads), strict=True
    ):
        assert (
            back is not None and off(back, one) < 2 * ROUNDING
        )  # sums of several products are rounded after each
