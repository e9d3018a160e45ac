"""Compiled kernels match PyTorch in float32 up to bfloat16 rounding, and are optional."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from attention_reference import (
    assert_independent_of_threads,
    assert_rope_in_attention_is_rope_before,
    attend,
    reference,
    relative_error,
)
from engine_helpers import record_calls
from prooftune.engine.attention import backends, packed, shared_prefix
from prooftune.engine.attention.packed_layout import PackedLayout
from prooftune.engine.forward import packed_hidden_states
from prooftune.engine.kernels import attention, build, lora_linear, pointwise
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import autocast
from prooftune.models import environment

ROUNDING = 0.006
"""Relative error: a bfloat16 value is off by up to 0.4%, by 0.17% on average."""


pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def code() -> None:
    if reason := build.why_unsupported():
        pytest.skip(f"no compiled code here: {reason}")


def test_kernels_are_available() -> None:
    assert pointwise.is_available(torch.bfloat16) and lora_linear.is_available(torch.bfloat16)
    assert all(attention.is_available(size, torch.bfloat16) for size in (32, 64, 96, 128, 256))


@pytest.fixture
def clear_kernel_caches() -> Iterator[None]:
    """Forget loaded libraries and availability checks, before and after the test."""
    cached: list[Any] = [
        build.load_library,
        lora_linear.is_available,
        attention.is_available,
        pointwise.is_available,
    ]
    for tensor in cached:
        tensor.cache_clear()
    yield
    for tensor in cached:
        tensor.cache_clear()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def random_inputs(
    prefix: int, lengths: list[int], groups: int, size: int, heads: int = 2
) -> list[Tensor]:
    tokens = prefix + sum(lengths)
    return [
        randn(tokens, n, size, seed=n + i).requires_grad_()
        for i, n in enumerate((heads * groups, heads, heads))
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    prefix=st.sampled_from([0, 1, 5, 31, 64, 130]),
    lengths=st.lists(st.sampled_from([1, 2, 7, 32, 63, 64, 65, 150]), min_size=1, max_size=4),
    groups=st.sampled_from([1, 3]),
    size=st.sampled_from([32, 64, 96]),
    window=st.sampled_from([None, 1, 3, 40, 100]),
)
def test_attention_and_its_gradients(
    prefix: int, lengths: list[int], groups: int, size: int, window: int | None
) -> None:
    inputs = random_inputs(prefix, lengths, groups, size)
    assert attention.is_supported(inputs[0], inputs[1], inputs[2], 0.2, None)
    actual = attend(inputs, prefix, lengths, window)
    expected = reference(inputs, prefix, lengths, window)
    assert relative_error(actual, expected) < ROUNDING
    grad = randn(*actual.shape, seed=9)
    ours, exact = (
        torch.autograd.grad(out, inputs, grad.to(out.dtype)) for out in (actual, expected)
    )
    for a, b in zip(ours, exact, strict=True):
        # Tokens that attend to little but themselves have gradients that are differences of nearly
        # equal numbers.
        assert (
            a.float() - b.float()
        ).norm() < ROUNDING * b.float().norm() + 2e-3 * grad.float().norm()


@pytest.mark.parametrize("size", [128, 256])
def test_large_heads(size: int) -> None:
    inputs = random_inputs(40, [3, 100], 2, size)
    actual, expected = attend(inputs, 40, [3, 100]), reference(inputs, 40, [3, 100])
    grad = randn(*actual.shape, seed=9)
    pairs = zip(
        torch.autograd.grad(actual, inputs, grad),
        torch.autograd.grad(expected, inputs, grad.float()),
        strict=True,
    )
    assert relative_error(actual, expected) < ROUNDING and all(
        relative_error(a, b) < ROUNDING for a, b in pairs
    )


def test_prefix_without_rows_and_window_beyond_all_tokens() -> None:
    inputs = random_inputs(70, [], 2, 32)
    actual = attend(inputs, 70, [], 2**40)
    assert relative_error(actual, reference(inputs, 70, [])) < ROUNDING
    expected = torch.autograd.grad(reference(inputs, 70, []).sum(), inputs)
    assert all(
        relative_error(a, b) < 0.02
        for a, b in zip(torch.autograd.grad(actual.sum(), inputs)[1:], expected[1:], strict=True)
    )


def test_attention_is_as_close_as_plain_matmuls(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, blocks = (
        random_inputs(45, [56, 200, 70], 3, 64),
        PackedLayout(45, [56, 200, 70], torch.device("cpu")),
    )
    expected = reference(inputs, 45, [56, 200, 70])
    grad = randn(*expected.shape, seed=9)
    exact = [expected, *torch.autograd.grad(expected, inputs, grad.float())]
    errors = []
    for fits in (True, False):
        monkeypatch.setattr(attention, "is_supported", lambda *_, answer=fits: answer)
        rows = [tensor.transpose(0, 1)[None] for tensor in inputs]
        actual = packed.packed_attention(rows[0], rows[1], rows[2], blocks, 0.2, None, None)[0]
        errors.append(
            [
                relative_error(a, b)
                for a, b in zip(
                    (actual, *torch.autograd.grad(actual, inputs, grad)), exact, strict=True
                )
            ]
        )
    assert all(ours <= 1.05 * plain for ours, plain in zip(*errors, strict=True))


@pytest.mark.parametrize("size", [32, 64])
def test_online_softmax_rescales_for_rising_scores(size: int) -> None:
    """Scores rise by up to 200 and fall, so the accumulators are rescaled several times."""
    query, key, value = (tensor.detach() for tensor in random_inputs(0, [300], 1, size))
    query, key = (
        query.abs(),
        (key.abs() * torch.linspace(0, 12, 300)[:, None, None].sin().abs() * 20 / size).bfloat16(),
    )
    assert (
        relative_error(
            attend([query, key, value], 0, [300]), reference([query, key, value], 0, [300])
        )
        < ROUNDING
    )


def test_number_of_threads_does_not_change_results() -> None:
    lengths = [130, 64, 9, 300]
    assert_independent_of_threads(random_inputs(20, lengths, 3, 32), 20, lengths)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("prefix", [0, 50])
def test_rope_in_attention(prefix: int, window: int | None) -> None:
    lengths = [130, 1, 32, 64]
    assert_rope_in_attention_is_rope_before(
        random_inputs(prefix, lengths, 3, 64), prefix, lengths, window
    )


def test_nan_stays_nan() -> None:
    query, key, value = (tensor.detach().clone() for tensor in random_inputs(0, [80], 1, 32))
    query[50, 0, 3] = torch.nan
    out = attend([query, key, value], 0, [80])
    assert out[50, 0].isnan().all() and not out[:50].isnan().any() and not out[:, 1].isnan().any()
    x = randn(64, 512)
    x[3, 5] = torch.nan
    assert (
        pointwise.swiglu(x, x)[3, 5].isnan()
        and pointwise.rms_norm(x, x[0].clone(), 1e-5)[0][3].isnan().all()
    )


@pytest.mark.parametrize(
    ("heads", "scaling", "cap", "dtype"),
    [
        (40, 0.1, None, torch.bfloat16),
        (288, 0.1, None, torch.bfloat16),
        (64, 0.1, 5.0, torch.bfloat16),
        (64, -1.0, None, torch.bfloat16),
        (64, 0.1, None, torch.float16),
    ],
)
def test_unsupported_attention_arguments(
    heads: int, scaling: float, cap: float | None, dtype: torch.dtype
) -> None:
    inputs = torch.zeros(8, 2, heads, dtype=dtype)
    assert not attention.is_supported(inputs, inputs, inputs, scaling, cap)


def test_unsupported_shapes() -> None:
    query, key = randn(8, 4, 64), randn(8, 2, 64)
    assert attention.is_supported(query, key, key, 0.1, None)
    for k, v in (
        (key, key[..., :32]),
        (key[:4], key[:4]),
        (key[..., :32], key[..., :32]),
        (randn(8, 3, 64), randn(8, 3, 64)),
        (key, key.float()),
    ):
        assert not attention.is_supported(query, k, v, 0.1, None)
    wide = randn(80, 512)
    assert torch.equal(
        pointwise.swiglu(wide, wide[0].clone()), torch.nn.functional.silu(wide) * wide[0]
    )


def test_swiglu_and_rms_norm() -> None:
    gate, up, grad, weight = (4 * randn(130, 256, seed=i) for i in range(4))
    exact = [tensor.float().requires_grad_() for tensor in (gate, up)]
    expected = torch.nn.functional.silu(exact[0]) * exact[1]
    assert relative_error(pointwise.swiglu(gate, up), expected) < ROUNDING
    for a, b in zip(
        pointwise.swiglu_backward(gate, up, grad),
        torch.autograd.grad(expected, exact, grad.float()),
        strict=True,
    ):
        assert relative_error(a, b) < ROUNDING
    x, w = exact[0], weight[0]
    expected = torch.nn.functional.rms_norm(x, (256,), w.float(), 1e-5)
    out, inverse = pointwise.rms_norm(gate, w, 1e-5)
    assert relative_error(out, expected) < ROUNDING
    torch.testing.assert_close(inverse, (x.detach().square().mean(-1) + 1e-5).rsqrt())
    assert (
        relative_error(
            pointwise.rms_norm_backward(gate, w, inverse, grad),
            torch.autograd.grad(expected, x, grad.float())[0],
        )
        < ROUNDING
    )


def test_rms_norm_with_additions() -> None:
    x, y, grad, grad_sum = (4 * randn(130, 256, seed=i) for i in range(4))
    weight = y[0].clone()
    total, out, inverse = pointwise.add_rms_norm(x, y, weight, 1e-5)
    expected, expected_inverse = pointwise.rms_norm(x + y, weight, 1e-5)
    assert torch.equal(total, x + y)
    assert torch.equal(out, expected) and torch.equal(inverse, expected_inverse)
    alone = pointwise.rms_norm_backward(total, weight, inverse, grad)
    both = pointwise.rms_norm_backward(total, weight, inverse, grad, grad_sum)
    assert torch.equal(both, alone + grad_sum)


@pytest.mark.parametrize("layout", ["line", "heads first", "rows"])
def test_rope(layout: str) -> None:
    rows = 2 if layout == "rows" else 1
    x, grad = (
        randn(rows, 130, 3, 64, seed=i).transpose(1, 2) for i in range(2)
    )  # as layers have it
    cos, sin = randn(rows, 1, 130, 64, seed=2).cos(), randn(rows, 1, 130, 64, seed=2).sin()
    if layout == "heads first":
        x, grad = x.contiguous(), grad.contiguous()
    wide = x.float().requires_grad_()
    expected = wide * cos + torch.cat([-wide[..., 32:], wide[..., :32]], dim=-1) * sin
    for actual, exact in (
        (pointwise.apply_rope(x, cos, sin), expected),
        (
            pointwise.apply_rope(grad, cos, sin, backward=True),
            torch.autograd.grad(expected, wide, grad.float())[0],
        ),
    ):
        assert actual.stride() == x.stride() and relative_error(actual, exact) < (
            ROUNDING if layout == "line" else 2 * ROUNDING
        )


def test_swiglu_of_large_values() -> None:
    gate = (
        torch.tensor([-1e30, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30]).bfloat16().repeat(64, 32)
    )
    out = pointwise.swiglu(gate, torch.ones_like(gate))
    torch.testing.assert_close(
        out, torch.nn.functional.silu(gate.float()).bfloat16(), atol=1e-30, rtol=0.01
    )
    assert all(
        tensor.isfinite().all()
        for tensor in pointwise.swiglu_backward(gate, torch.ones_like(gate), torch.ones_like(gate))
    )


@pytest.mark.slow
def test_gradients_are_no_farther_from_float32_than_without_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        initializer_range=0.1,
    )
    prefix, rows = list(range(20)), [[5 + i % 90 for i in range(n)] for n in (70, 33, 90)]
    line = pack_sequences(prefix, rows, [[len(row) - 1] for row in rows])

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).bfloat16().to(dtype)
        model = get_peft_model(
            model, LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
        )
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = (0.1 * randn(*weight.shape, seed=len(name))).float()
        backends.register()
        model.get_base_model().set_attn_implementation(shared_prefix.NAME)
        learned = [weight for name, weight in model.named_parameters() if "lora_" in name]
        with autocast(model):
            states = packed_hidden_states(get_backbone(model), line).float()
        return list(torch.autograd.grad((states * randn(*states.shape).float()).sum(), learned))

    calls = record_calls(monkeypatch)
    exact, ours = gradients(torch.float32), gradients(torch.bfloat16)
    assert {*calls} == {
        "lora_forward",
        "lora_backward",
        "flash_attention",
        "flash_attention_backward",
        "swiglu",
        "swiglu_backward",
        "rms_norm",
        "rms_norm_backward",
    }
    monkeypatch.setattr(attention, "is_available", lambda *_: False)
    monkeypatch.setattr(pointwise, "is_available", lambda *_: False)
    monkeypatch.setattr(lora_linear, "is_available", lambda *_: False)
    plain = gradients(torch.bfloat16)
    with_kernels, without_kernels = (
        sum(float((a.float() - b).norm()) for a, b in zip(results, exact, strict=True))
        for results in (ours, plain)
    )
    assert with_kernels <= 1.1 * without_kernels


@pytest.mark.slow
def test_library_is_compiled_once(
    clear_kernel_caches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    for _ in range(2):
        assert build.load_library("pointwise") is not None
        build.load_library.cache_clear()
    libraries = sorted((tmp_path / "compiled").iterdir())
    assert len(libraries) == 1 and libraries[0].suffix == ".so"
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    assert build.load_library("pointwise") is not None


def test_works_without_a_compiler(
    clear_kernel_caches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "notify", lambda *_: pytest.fail("nobody needs to know"))
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert build.why_unsupported() and not (
        pointwise.is_available(torch.bfloat16)
        or lora_linear.is_available(torch.bfloat16)
        or attention.is_available(64, torch.bfloat16)
    )
    gate = randn(130, 256)
    assert (
        relative_error(
            pointwise.swiglu(gate, gate), torch.nn.functional.silu(gate.float()) * gate.float()
        )
        < ROUNDING
    )


def test_failing_compiler_is_reported(
    clear_kernel_caches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: messages.append(text))
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "cc"
    broken.write_text(
        "#!/bin/sh\nif [ $1 = --version ]; then echo 1; else echo no such option >&2; exit 1; fi\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert build.load_library("pointwise") is None and build.load_library("pointwise") is None
    assert (
        len(messages) == 1
        and "pointwise.c" in messages[0]
        and str(broken) in messages[0]
        and "no such option" in messages[0]
    )


def test_library_with_wrong_results_is_not_used(
    clear_kernel_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> None:
        """A kernel that leaves its outputs unchanged."""

    monkeypatch.setattr(build, "call", nothing)
    monkeypatch.setattr(torch, "empty_like", torch.zeros_like)
    monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    assert not (
        pointwise.is_available(torch.bfloat16)
        or lora_linear.is_available(torch.bfloat16)
        or attention.is_available(64, torch.bfloat16)
    )


@pytest.mark.parametrize("writable", ["file", "folder"])
def test_library_writable_by_others_is_not_loaded(
    writable: str, clear_kernel_caches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: messages.append(text))
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert build.load_library("pointwise") is not None and not messages
    build.load_library.cache_clear()
    folder = tmp_path / "compiled"
    (folder if writable == "folder" else next(folder.iterdir())).chmod(0o777)
    assert (
        build.load_library("pointwise") is None
        and len(messages) == 1
        and "PROOFTUNE_CACHE" in messages[0]
    )


def test_damaged_library_is_reported(
    clear_kernel_caches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: messages.append(text))
    monkeypatch.setattr(
        build,
        "compile_library",
        lambda *inputs: inputs[-1].parent.mkdir(mode=0o700) or inputs[-1].write_bytes(b"x"),
    )
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert (
        build.load_library("pointwise", SIZE=1) is None
        and len(messages) == 1
        and str(tmp_path) in messages[0]
    )


@pytest.mark.slow
def test_kernels_can_be_disabled() -> None:
    code = "from prooftune.engine.kernels import build; print(build.load_library('pointwise'))"
    for value, expected in (("0", True), ("1", False)):
        command, variables = [sys.executable, "-c", code], os.environ | {"PROOFTUNE_COMPILE": value}
        completed = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=True
        )
        assert (completed.stdout.strip() == "None") is expected


def test_environment_reports_the_kernels_in_use(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment_settings = {"device": "cpu", "dtype": "bfloat16", "attention": shared_prefix.NAME}
    for config, expected in (
        ({"head_dim": 64}, "attention, pointwise"),
        ({"head_dim": 40}, "pointwise"),
        ({"hidden_size": 256, "num_attention_heads": 4}, "attention, pointwise"),
        ({"head_dim": 64, "attn_logit_softcapping": 50.0}, "pointwise"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert environment.compiled_kernels(environment_settings, tmp_path) == expected
        for dtype, kernels in (("float32", expected), ("float16", "none")):
            assert (
                environment.compiled_kernels(environment_settings | {"dtype": dtype}, tmp_path)
                == kernels
            )
        assert (
            environment.compiled_kernels(environment_settings | {"device": "cuda"}, tmp_path)
            == "none"
        )
    assert (
        environment.compiled_kernels(
            environment_settings | {"attention": "sdpa"}, model_folders["llama"]
        )
        == "pointwise"
    )
    monkeypatch.setattr(pointwise, "is_available", lambda *_: False)
    assert (
        environment.compiled_kernels(
            environment_settings | {"attention": "sdpa"}, model_folders["llama"]
        )
        == "none"
    )
