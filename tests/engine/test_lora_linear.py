"""Compiled LoRA layers match the formulas in float32 up to bfloat16 rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_reference import relative_error
from engine.test_kernels import randn
from prooftune.engine.kernels import build, lora_linear
from prooftune.engine.kernels.lora_linear import MIN_ROWS, LoraLinears

ROUNDING = 0.004
"""Relative error of two roundings to bfloat16: frozen output, then sum with the adapter's."""
SHAPES = [(32, 8), (64, 16), (96, 24), (160, 64)]
"""Output widths and adapter ranks."""


pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def code() -> None:
    if not lora_linear.is_available():
        pytest.skip("no compiled code here: it needs AVX512-BF16, no AMX, and a C compiler")


def layers_of(rows: int, depth: int, shapes: list[tuple[int, int]]) -> LoraLinears:
    frozen = [randn(width, depth, seed=width) for width, _ in shapes]
    lora_a, lora_b = (
        [randn(*shape, seed=i).float() / 3 for i, shape in enumerate(tensors)]
        for tensors in ([(rank, depth) for _, rank in shapes], shapes)
    )
    return LoraLinears(randn(rows, depth, seed=rows), frozen, lora_a, lora_b, 0.5)


def grads_of(layers: LoraLinears) -> list[Tensor]:
    return [randn(len(layers.x), len(w), seed=9 + i) for i, w in enumerate(layers.weights)]


def reference(layers: LoraLinears) -> tuple[Tensor, list[Tensor]]:
    """The formulas in float32, with the roundings that any implementation has."""
    x, lora_a, lora_b = (
        layers.x.float(),
        *(
            [tensor.bfloat16().float() for tensor in tensors]
            for tensors in (layers.lora_a, layers.lora_b)
        ),
    )
    hiddens = [(layers.scaling * x @ a.T).bfloat16().float() for a in lora_a]
    return torch.cat(hiddens, 1), [
        (x @ w.float().T).bfloat16().float() + hidden @ b.T
        for w, hidden, b in zip(layers.weights, hiddens, lora_b, strict=True)
    ]


def reference_backward(layers: LoraLinears, hidden: Tensor, grads: list[Tensor]) -> list[Tensor]:
    x, lora_a, lora_b = (
        layers.x.float(),
        *(
            [tensor.bfloat16().float() for tensor in tensors]
            for tensors in (layers.lora_a, layers.lora_b)
        ),
    )
    grad_hiddens = [
        (layers.scaling * grad.float() @ b).bfloat16().float()
        for grad, b in zip(grads, lora_b, strict=True)
    ]
    grad_x = sum(grad.float() @ w.float() for grad, w in zip(grads, layers.weights, strict=True))
    assert isinstance(grad_x, Tensor)
    grad_x = grad_x.bfloat16().float() + sum(
        tensor @ a for tensor, a in zip(grad_hiddens, lora_a, strict=True)
    )
    grad_b = [
        grad.float().T @ part.float()
        for part, grad in zip(layers.split_hidden(hidden), grads, strict=True)
    ]
    return [torch.cat(grad_hiddens, 1), grad_x, *(tensor.T @ x for tensor in grad_hiddens), *grad_b]


def run_both(layers: LoraLinears, grads: list[Tensor]) -> list[Tensor]:
    """All results of the forward and backward pass."""
    hidden, outs = layers.forward()
    grad_hidden, grad_x, grad_a, grad_b = layers.backward(hidden, grads)
    assert grad_x is not None
    return [hidden, *outs, grad_hidden, grad_x, *grad_a, *grad_b]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([MIN_ROWS, MIN_ROWS + 1, 135, 160, 259, 1025]),
    depth=st.sampled_from([32, 64, 96, 576]),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
)
def test_matches_the_formulas(rows: int, depth: int, shapes: list[tuple[int, int]]) -> None:
    layers = layers_of(rows, depth, shapes)
    hidden, outs = layers.forward()
    expected_hidden, expected = reference(layers)
    assert relative_error(hidden, expected_hidden) < ROUNDING
    for actual, tensor in zip(outs, expected, strict=True):
        assert (
            actual.shape == tensor.shape
            and actual.dtype == torch.bfloat16
            and relative_error(actual, tensor) < ROUNDING
        )
    grads = grads_of(layers)
    grad_hidden, grad_x, grad_a, grad_b = layers.backward(hidden, grads)
    for back, tensor in zip(
        [grad_hidden, grad_x, *grad_a, *grad_b],
        reference_backward(layers, hidden, grads),
        strict=True,
    ):
        assert (
            back is not None
            and back.shape == tensor.shape
            and relative_error(back, tensor) < ROUNDING
        )
    assert all(tensor.dtype == torch.float32 for tensor in (*grad_a, *grad_b))


def test_adapter_is_added_after_rounding() -> None:
    """As in peft; contributions smaller than the bfloat16 spacing show the difference."""
    layers = layers_of(200, 576, [(192, 16)])
    hidden, (out,) = layers.forward()
    x, w, b = layers.x.float(), layers.weights[0].float(), layers.lora_b[0].bfloat16().float()
    added = hidden.float() @ b.T
    rounded_once, rounded_twice = (
        (x @ w.T + added).bfloat16(),
        ((x @ w.T).bfloat16().float() + added).bfloat16(),
    )
    assert (out == rounded_twice).float().mean() > 0.99 > (out == rounded_once).float().mean()


def test_unrequested_results_are_not_computed() -> None:
    layers = layers_of(MIN_ROWS, 64, SHAPES[:2])
    hidden, outs = layers.forward(with_outputs=False)
    assert outs == () and torch.equal(hidden, layers.forward()[0])
    grads = grads_of(layers)
    grad_hidden, grad_x, grad_a, _ = layers.backward(hidden, grads, with_grad_x=False)
    full = layers.backward(hidden, grads)
    assert (
        grad_x is None
        and torch.equal(grad_hidden, full[0])
        and all(map(torch.equal, grad_a, full[2]))
    )


def test_a_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    layers, back = layers_of(300, 96, SHAPES[1:3]), slice(3, 3 + MIN_ROWS + 2)
    grads = grads_of(layers)
    alone = LoraLinears(
        layers.x[back].contiguous(), layers.weights, layers.lora_a, layers.lora_b, layers.scaling
    )
    full, part = (
        run_both(layers, grads),
        run_both(alone, [grad[back].contiguous() for grad in grads]),
    )
    assert all(torch.equal(a[back], b) for a, b in zip(full[:5], part[:5], strict=True))


def test_number_of_threads_does_not_change_results() -> None:
    layers, num_threads, results = layers_of(1100, 96, SHAPES), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run_both(layers, grads_of(layers)))
    finally:
        torch.set_num_threads(num_threads)
    assert all(
        torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_stay_non_finite(value: float) -> None:
    """Divergence must not be hidden."""
    layers = layers_of(MIN_ROWS, 64, SHAPES[:1])
    layers.x[3, 40] = value
    hidden, (out,) = layers.forward()
    assert not out[3].isfinite().any() and out[4:].isfinite().all()
    _, grad_x, grad_a, _ = layers.backward(hidden, [out])
    assert (
        grad_x is not None
        and not grad_x[3].isfinite().any()
        and not grad_a[0][:, 40].isfinite().any()
    )


UNSUPPORTED = {
    "few rows": layers_of(MIN_ROWS - 1, 64, SHAPES[:2]),
    "a rank of 4": layers_of(150, 64, [(64, 4)]),
    "a width of 48": layers_of(150, 64, [(48, 8)]),
    "a depth of 40": layers_of(150, 40, [(64, 8)]),
}


@pytest.mark.parametrize("kind", [*UNSUPPORTED, "adapters in bfloat16", "rows apart"])
def test_unsupported_shapes_are_computed_by_pytorch(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = UNSUPPORTED.get(kind) or layers_of(150, 64, SHAPES[:2])
    if kind == "adapters in bfloat16":
        lora_a, lora_b = (
            [tensor.bfloat16() for tensor in tensors] for tensors in (layers.lora_a, layers.lora_b)
        )
        layers = LoraLinears(layers.x, layers.weights, lora_a, lora_b, 0.5)
    if kind == "rows apart":
        layers = LoraLinears(
            randn(150, 128)[:, :64], layers.weights, layers.lora_a, layers.lora_b, 0.5
        )
    monkeypatch.setattr(build, "call", lambda *_: pytest.fail("compiled code was called"))
    hidden, outs = layers.forward()
    for actual, tensor in zip(
        (hidden, *outs), (reference(layers)[0], *reference(layers)[1]), strict=True
    ):
        assert relative_error(actual, tensor) < ROUNDING
    grads = grads_of(layers)
    grad_hidden, grad_x, grad_a, grad_b = layers.backward(hidden, grads)
    for back, tensor in zip(
        [grad_hidden, grad_x, *grad_a, *grad_b],
        reference_backward(layers, hidden, grads),
        strict=True,
    ):
        assert (
            back is not None and relative_error(back, tensor) < 2 * ROUNDING
        )  # PyTorch rounds after each of several matmuls
