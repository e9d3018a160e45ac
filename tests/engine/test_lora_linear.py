"""Compiled LoRA layers match the formulas up to the rounding of their dtype.

Float32 is computed by the code for AVX2 on any x86 CPU that has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_reference import relative_error
from engine_helpers import record_calls
from prooftune.engine.fused.lora import _FusedLoraLinears
from prooftune.engine.kernels import build, lora_linear
from prooftune.engine.kernels.lora_linear import MIN_ROWS, LoraLinears, can_compile, pad_ranks

ROUNDING = {torch.bfloat16: 0.004, torch.float32: 1e-6}
"""Relative errors: bfloat16 is rounded twice (frozen output, then its sum with the adapter's)."""
SHAPES = [(32, 8), (64, 16), (96, 24), (160, 64), (352, 8)]
"""Output widths and adapter ranks."""


pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module", autouse=True, params=ROUNDING, ids=["bfloat16", "float32"])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """The dtype of x and the frozen weights."""
    kind: torch.dtype = request.param
    with pytest.MonkeyPatch.context() as patch:
        disabled = os.environ.get("PROOFTUNE_COMPILE") == "0"
        if kind == torch.float32 and "avx2" in build.cpu_flags() and not disabled:
            patch.setenv("PROOFTUNE_COMPILE", "avx2")
        clear_caches()
        if not lora_linear.is_available(kind):
            pytest.skip(f"no compiled code here: {build.why_unsupported(kind)}")
        yield kind
    clear_caches()


def clear_caches() -> None:
    build.load_library.cache_clear()
    lora_linear.is_available.cache_clear()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers_of(
    dtype: torch.dtype, rows: int, depth: int, shapes: list[tuple[int, int]]
) -> LoraLinears:
    frozen = [randn(width, depth, seed=width).to(dtype) for width, _ in shapes]
    lora_a, lora_b = (
        [randn(*shape, seed=i) / 3 for i, shape in enumerate(tensors)]
        for tensors in ([(rank, depth) for _, rank in shapes], shapes)
    )
    return LoraLinears(randn(rows, depth, seed=rows).to(dtype), frozen, lora_a, lora_b, 0.5)


def grads_of(layers: LoraLinears) -> list[Tensor]:
    return [
        randn(len(layers.x), len(w), seed=9 + i).to(w.dtype) for i, w in enumerate(layers.weights)
    ]


def reference(layers: LoraLinears) -> tuple[Tensor, list[Tensor]]:
    """The formulas in float64, with the roundings that any implementation has."""
    dtype, x = layers.x.dtype, layers.x.double()
    lora_a, lora_b = (
        [tensor.to(dtype).double() for tensor in tensors]
        for tensors in (layers.lora_a, layers.lora_b)
    )
    hiddens = [(layers.scaling * x @ a.T).to(dtype).double() for a in lora_a]
    return torch.cat(hiddens, 1), [
        (x @ w.double().T).to(dtype).double() + hidden @ b.T
        for w, hidden, b in zip(layers.weights, hiddens, lora_b, strict=True)
    ]


def reference_backward(layers: LoraLinears, hidden: Tensor, grads: list[Tensor]) -> list[Tensor]:
    dtype, x = layers.x.dtype, layers.x.double()
    lora_a, lora_b = (
        [tensor.to(dtype).double() for tensor in tensors]
        for tensors in (layers.lora_a, layers.lora_b)
    )
    grad_hiddens = [
        (layers.scaling * grad.double() @ b).to(dtype).double()
        for grad, b in zip(grads, lora_b, strict=True)
    ]
    grad_x = sum(grad.double() @ w.double() for grad, w in zip(grads, layers.weights, strict=True))
    assert isinstance(grad_x, Tensor)
    grad_x = grad_x.to(dtype).double() + sum(
        tensor @ a for tensor, a in zip(grad_hiddens, lora_a, strict=True)
    )
    grad_b = [
        grad.double().T @ part.double()
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
    depth=st.sampled_from([32, 64, 96, 736]),
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
)
def test_matches_the_formulas(
    dtype: torch.dtype, rows: int, depth: int, shapes: list[tuple[int, int]]
) -> None:
    layers = layers_of(dtype, rows, depth, shapes)
    rounding = ROUNDING[dtype]
    hidden, outs = layers.forward()
    expected_hidden, expected = reference(layers)
    assert relative_error(hidden, expected_hidden) < rounding
    for actual, tensor in zip(outs, expected, strict=True):
        assert (
            actual.shape == tensor.shape
            and actual.dtype == dtype
            and relative_error(actual, tensor) < rounding
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
            and relative_error(back, tensor) < rounding
        )
    assert all(tensor.dtype == torch.float32 for tensor in (*grad_a, *grad_b))


@pytest.mark.parametrize("dtype", [torch.bfloat16], indirect=True)
def test_adapter_is_added_after_rounding(dtype: torch.dtype) -> None:
    """As in peft; contributions smaller than the bfloat16 spacing show the difference."""
    layers = layers_of(dtype, 200, 576, [(192, 16)])
    hidden, (out,) = layers.forward()
    x, w, b = layers.x.float(), layers.weights[0].float(), layers.lora_b[0].bfloat16().float()
    added = hidden.float() @ b.T
    rounded_once, rounded_twice = (
        (x @ w.T + added).bfloat16(),
        ((x @ w.T).bfloat16().float() + added).bfloat16(),
    )
    assert (out == rounded_twice).float().mean() > 0.99 > (out == rounded_once).float().mean()


def test_gradients_of_the_fused_layers(dtype: torch.dtype) -> None:
    """Gradients through autograd are those of the formula in float64."""
    layers = layers_of(dtype, 150, 96, SHAPES[1:3])
    flat = [layers.x, *layers.weights, *layers.lora_a, *layers.lora_b]
    exact = [tensor.double().requires_grad_() for tensor in flat]
    for tensor in (layers.x, *layers.lora_a, *layers.lora_b):
        tensor.requires_grad_()
    grads = grads_of(layers)
    outs = _FusedLoraLinears.apply(layers.x, layers.scaling, [None] * 2, None, *flat[1:])  # type: ignore[no-untyped-call]
    x, w, a, b = exact[0], exact[1:3], exact[3:5], exact[5:]
    expected = [x @ w[i].T + layers.scaling * x @ a[i].T @ b[i].T for i in range(2)]
    learned = [0, 3, 4, 5, 6]
    for actual, tensor in zip(
        torch.autograd.grad(outs, [flat[i] for i in learned], grads),
        torch.autograd.grad(
            expected, [exact[i] for i in learned], [grad.double() for grad in grads]
        ),
        strict=True,
    ):
        assert relative_error(actual, tensor) < 2 * ROUNDING[dtype]


def test_unrequested_results_are_not_computed(dtype: torch.dtype) -> None:
    layers = layers_of(dtype, MIN_ROWS, 64, SHAPES[:2])
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


def test_a_row_does_not_depend_on_the_rest_of_the_batch(dtype: torch.dtype) -> None:
    layers, back = layers_of(dtype, 300, 96, SHAPES[1:3]), slice(3, 3 + MIN_ROWS + 2)
    grads = grads_of(layers)
    alone = LoraLinears(
        layers.x[back].contiguous(), layers.weights, layers.lora_a, layers.lora_b, layers.scaling
    )
    full, part = (
        run_both(layers, grads),
        run_both(alone, [grad[back].contiguous() for grad in grads]),
    )
    assert all(torch.equal(a[back], b) for a, b in zip(full[:5], part[:5], strict=True))


def test_number_of_threads_does_not_change_results(dtype: torch.dtype) -> None:
    layers, num_threads, results = layers_of(dtype, 1100, 96, SHAPES), torch.get_num_threads(), []
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
def test_non_finite_values_stay_non_finite(dtype: torch.dtype, value: float) -> None:
    """Divergence must not be hidden."""
    layers = layers_of(dtype, MIN_ROWS, 64, SHAPES[:1])
    layers.x[3, 40] = value
    hidden, (out,) = layers.forward()
    assert not out[3].isfinite().any() and out[4:].isfinite().all()
    _, grad_x, grad_a, _ = layers.backward(hidden, [out])
    assert (
        grad_x is not None
        and not grad_x[3].isfinite().any()
        and not grad_a[0][:, 40].isfinite().any()
    )


UNSUPPORTED: dict[str, tuple[int, int, list[tuple[int, int]]]] = {
    "few rows": (MIN_ROWS - 1, 64, SHAPES[:2]),
    "a rank of 4": (150, 64, [(64, 4)]),
    "a width of 48": (150, 64, [(48, 8)]),
    "a depth of 40": (150, 40, [(64, 8)]),
}
"""Rows, depth, widths and ranks."""


@pytest.mark.parametrize("kind", [*UNSUPPORTED, "adapters in another dtype", "rows apart"])
def test_unsupported_shapes_are_computed_by_pytorch(
    dtype: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_of(dtype, *UNSUPPORTED.get(kind, (150, 64, SHAPES[:2])))
    if kind == "adapters in another dtype":
        other = torch.bfloat16 if dtype == torch.bfloat16 else torch.float64
        lora_a, lora_b = (
            [tensor.to(other) for tensor in tensors] for tensors in (layers.lora_a, layers.lora_b)
        )
        layers = LoraLinears(layers.x, layers.weights, lora_a, lora_b, 0.5)
    if kind == "rows apart":
        x = randn(150, 128).to(dtype)[:, :64]
        layers = LoraLinears(x, layers.weights, layers.lora_a, layers.lora_b, 0.5)
    monkeypatch.setattr(build, "call", lambda *_: pytest.fail("compiled code was called"))
    hidden, outs = layers.forward()
    for actual, tensor in zip(
        (hidden, *outs), (reference(layers)[0], *reference(layers)[1]), strict=True
    ):
        assert relative_error(actual, tensor) < ROUNDING[dtype]
    grads = grads_of(layers)
    grad_hidden, grad_x, grad_a, grad_b = layers.backward(hidden, grads)
    for back, tensor in zip(
        [grad_hidden, grad_x, *grad_a, *grad_b],
        reference_backward(layers, hidden, grads),
        strict=True,
    ):
        assert (
            back is not None and relative_error(back, tensor) < 2 * ROUNDING[dtype]
        )  # PyTorch rounds after each of several matmuls


def test_other_ranks_are_padded(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = layers_of(dtype, 150, 64, [(64, 4), (32, 13), (96, 16)])
    assert can_compile(layers.x, layers.weights)
    calls = record_calls(monkeypatch)
    inputs = [layers.x, *layers.lora_a, *layers.lora_b]
    for tensor in inputs:
        tensor.requires_grad_()
    lora_a, lora_b = pad_ranks(layers.lora_a, layers.lora_b)
    assert [len(a) for a in lora_a] == [b.shape[1] for b in lora_b] == [8, 16, 16]
    outs = _FusedLoraLinears.apply(  # type: ignore[no-untyped-call]
        layers.x, 0.5, [None] * 3, None, *layers.weights, *lora_a, *lora_b
    )
    grads = grads_of(layers)
    actual = torch.autograd.grad(outs, inputs, grads)
    assert calls == ["lora_forward", "lora_backward"]
    with torch.no_grad():
        hidden, expected_outs = reference(layers)
        _, *expected = reference_backward(layers, hidden.to(dtype), grads)
    for tensor, expected_tensor in zip((*outs, *actual), (*expected_outs, *expected), strict=True):
        assert tensor.shape == expected_tensor.shape
        assert relative_error(tensor, expected_tensor) < ROUNDING[dtype]


def test_supported_ranks_are_not_copied(dtype: torch.dtype) -> None:
    layers = layers_of(dtype, 150, 64, SHAPES)
    lora_a, lora_b = pad_ranks(layers.lora_a, layers.lora_b)
    assert all(map(lambda one, other: one is other, lora_a, layers.lora_a))
    assert all(map(lambda one, other: one is other, lora_b, layers.lora_b))
