"""Compiled code computes what PyTorch does in float32, up to bfloat16's rounding; where there is
none, nothing else changes."""

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

from prooftune.engine.attention import packed, shared_prefix
from prooftune.engine.attention.block_layout import PackedLayout
from prooftune.engine.forward import packed_hidden_states
from prooftune.engine.kernels import attention, build, lora_linear, pointwise
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import autocast
from prooftune.models import environment

ROUNDING = 0.006
"""Of the norm: a number in bfloat16 is off by up to 0.4% of itself, by 0.17% in the mean."""


@pytest.fixture(autouse=True)
def code() -> None:
    if reason := build.why_unsupported():
        pytest.skip(f"no compiled code here: {reason}")


def test_it_is_there() -> None:
    assert pointwise.is_available() and lora_linear.is_available()
    assert all(attention.is_available(size) for size in (32, 64, 96, 128, 256))


@pytest.fixture
def afresh() -> Iterator[None]:
    """As if nothing had been compiled or tried in this process; and again afterwards."""
    known: list[Any] = [
        build.load_library,
        lora_linear.is_available,
        attention.is_available,
        pointwise.is_available,
    ]
    for one in known:
        one.cache_clear()
    yield
    for one in known:
        one.cache_clear()


def off(got: Tensor, wanted: Tensor) -> float:
    return float(((got.float() - wanted.float()).norm() / wanted.float().norm()).detach())


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def attend(
    given_: list[Tensor], prefix: int, lengths: list[int], window: int | None = None
) -> Tensor:
    query, key, value = given_
    return attention.flash_attention(
        query, key, value, PackedLayout(prefix, lengths, query.device), 0.2, window
    )


def slowly(
    given_: list[Tensor], prefix: int, lengths: list[int], window: int | None = None
) -> Tensor:
    """Attention as the formula has it, all tokens with all, in float32."""
    query, key, value = given_
    own = torch.tensor(
        [0] * prefix + [n for n, length in enumerate(lengths, 1) for _ in range(length)]
    )
    place = torch.tensor(
        [*range(prefix), *(prefix + i for length in lengths for i in range(length))]
    )
    seen = ((own[None] == own[:, None]) | (own[None] == 0)) & (place[None] <= place[:, None])
    if window is not None:
        seen &= place[:, None] - place[None] < window
    groups = query.shape[1] // key.shape[1]
    key, value = (one.float().repeat_interleave(groups, 1) for one in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.float(), key) * 0.2
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


def line_of(
    prefix: int, lengths: list[int], groups: int, size: int, heads: int = 2
) -> list[Tensor]:
    tokens = prefix + sum(lengths)
    return [
        numbers(tokens, n, size, seed=n + i).requires_grad_()
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
    given_ = line_of(prefix, lengths, groups, size)
    assert attention.is_supported(given_[0], given_[1], given_[2], 0.2, None)
    got = attend(given_, prefix, lengths, window)
    wanted = slowly(given_, prefix, lengths, window)
    assert off(got, wanted) < ROUNDING
    grad = numbers(*got.shape, seed=9)
    ours, exact = (torch.autograd.grad(out, given_, grad.to(out.dtype)) for out in (got, wanted))
    for a, b in zip(ours, exact, strict=True):
        # Where tokens see next to nothing but themselves, gradients are differences of nearly equal
        # numbers.
        assert (
            a.float() - b.float()
        ).norm() < ROUNDING * b.float().norm() + 2e-3 * grad.float().norm()


@pytest.mark.parametrize("size", [128, 256])
def test_large_heads(size: int) -> None:
    given_ = line_of(40, [3, 100], 2, size)
    got, wanted = attend(given_, 40, [3, 100]), slowly(given_, 40, [3, 100])
    grad = numbers(*got.shape, seed=9)
    pairs = zip(
        torch.autograd.grad(got, given_, grad),
        torch.autograd.grad(wanted, given_, grad.float()),
        strict=True,
    )
    assert off(got, wanted) < ROUNDING and all(off(a, b) < ROUNDING for a, b in pairs)


def test_a_prefix_without_rows_and_a_window_beyond_all() -> None:
    given_ = line_of(70, [], 2, 32)
    got = attend(given_, 70, [], 2**40)
    assert off(got, slowly(given_, 70, [])) < ROUNDING
    wanted = torch.autograd.grad(slowly(given_, 70, []).sum(), given_)
    assert all(
        off(a, b) < 0.02
        for a, b in zip(torch.autograd.grad(got.sum(), given_)[1:], wanted[1:], strict=True)
    )


def test_it_is_as_near_as_plain_products_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given_, blocks = (
        line_of(45, [56, 200, 70], 3, 64),
        PackedLayout(45, [56, 200, 70], torch.device("cpu")),
    )
    wanted = slowly(given_, 45, [56, 200, 70])
    grad = numbers(*wanted.shape, seed=9)
    exact = [wanted, *torch.autograd.grad(wanted, given_, grad.float())]
    errors = []
    for fits in (True, False):
        monkeypatch.setattr(attention, "is_supported", lambda *_, answer=fits: answer)
        rows = [one.transpose(0, 1)[None] for one in given_]
        got = packed.packed_attention(rows[0], rows[1], rows[2], blocks, 0.2, None, None)[0]
        errors.append(
            [
                off(a, b)
                for a, b in zip((got, *torch.autograd.grad(got, given_, grad)), exact, strict=True)
            ]
        )
    assert all(ours <= 1.05 * plain for ours, plain in zip(*errors, strict=True))


@pytest.mark.parametrize("size", [32, 64])
def test_a_high_score_after_many_low_ones(size: int) -> None:
    """What is added up is made relative to another score as higher ones come; here they rise by up
    to 200, and fall."""
    query, key, value = (one.detach() for one in line_of(0, [300], 1, size))
    query, key = (
        query.abs(),
        (key.abs() * torch.linspace(0, 12, 300)[:, None, None].sin().abs() * 20 / size).bfloat16(),
    )
    assert (
        off(attend([query, key, value], 0, [300]), slowly([query, key, value], 0, [300])) < ROUNDING
    )


def test_the_number_of_threads_changes_nothing() -> None:
    given_, before, found = line_of(20, [130, 64, 9, 300], 3, 32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = attend(given_, 20, [130, 64, 9, 300])
            found.append([out, *torch.autograd.grad(out.sum(), given_)])
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True)
    )


def test_what_is_not_a_number_stays_so() -> None:
    query, key, value = (one.detach().clone() for one in line_of(0, [80], 1, 32))
    query[50, 0, 3] = torch.nan
    out = attend([query, key, value], 0, [80])
    assert out[50, 0].isnan().all() and not out[:50].isnan().any() and not out[:, 1].isnan().any()
    x = numbers(64, 512)
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
        (64, 0.1, None, torch.float32),
    ],
)
def test_what_it_is_not_for(
    heads: int, scaling: float, cap: float | None, dtype: torch.dtype
) -> None:
    given_ = torch.zeros(8, 2, heads, dtype=dtype)
    assert not attention.is_supported(given_, given_, given_, scaling, cap)


def test_other_shapes_are_not_for_it() -> None:
    query, key = numbers(8, 4, 64), numbers(8, 2, 64)
    assert attention.is_supported(query, key, key, 0.1, None)
    for k, v in (
        (key, key[..., :32]),
        (key[:4], key[:4]),
        (key[..., :32], key[..., :32]),
        (numbers(8, 3, 64), numbers(8, 3, 64)),
        (key, key.float()),
    ):
        assert not attention.is_supported(query, k, v, 0.1, None)
    wide = numbers(80, 512)
    assert torch.equal(
        pointwise.swiglu(wide, wide[0].clone()), torch.nn.functional.silu(wide) * wide[0]
    )


def test_what_stands_between_products() -> None:
    gate, up, grad, weight = (4 * numbers(130, 256, seed=i) for i in range(4))
    exact = [one.float().requires_grad_() for one in (gate, up)]
    wanted = torch.nn.functional.silu(exact[0]) * exact[1]
    assert off(pointwise.swiglu(gate, up), wanted) < ROUNDING
    for a, b in zip(
        pointwise.swiglu_backward(gate, up, grad),
        torch.autograd.grad(wanted, exact, grad.float()),
        strict=True,
    ):
        assert off(a, b) < ROUNDING
    x, w = exact[0], weight[0]
    wanted = torch.nn.functional.rms_norm(x, (256,), w.float(), 1e-5)
    out, inverse = pointwise.rms_norm(gate, w, 1e-5)
    assert off(out, wanted) < ROUNDING
    torch.testing.assert_close(inverse, (x.detach().square().mean(-1) + 1e-5).rsqrt())
    assert (
        off(
            pointwise.rms_norm_backward(gate, w, inverse, grad),
            torch.autograd.grad(wanted, x, grad.float())[0],
        )
        < ROUNDING
    )


@pytest.mark.parametrize("layout", ["line", "heads first", "rows"])
def test_rotary_positions(layout: str) -> None:
    rows = 2 if layout == "rows" else 1
    x, grad = (
        numbers(rows, 130, 3, 64, seed=i).transpose(1, 2) for i in range(2)
    )  # as layers have it
    cos, sin = numbers(rows, 1, 130, 64, seed=2).cos(), numbers(rows, 1, 130, 64, seed=2).sin()
    if layout == "heads first":
        x, grad = x.contiguous(), grad.contiguous()
    wide = x.float().requires_grad_()
    wanted = wide * cos + torch.cat([-wide[..., 32:], wide[..., :32]], dim=-1) * sin
    for got, exact in (
        (pointwise.apply_rope(x, cos, sin), wanted),
        (
            pointwise.apply_rope(grad, cos, sin, backward=True),
            torch.autograd.grad(wanted, wide, grad.float())[0],
        ),
    ):
        assert got.stride() == x.stride() and off(got, exact) < (
            ROUNDING if layout == "line" else 2 * ROUNDING
        )


def test_large_numbers_between_products() -> None:
    gate = (
        torch.tensor([-1e30, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30]).bfloat16().repeat(64, 32)
    )
    out = pointwise.swiglu(gate, torch.ones_like(gate))
    torch.testing.assert_close(
        out, torch.nn.functional.silu(gate.float()).bfloat16(), atol=1e-30, rtol=0.01
    )
    assert all(
        one.isfinite().all()
        for one in pointwise.swiglu_backward(gate, torch.ones_like(gate), torch.ones_like(gate))
    )


def test_a_models_gradients_are_no_farther_from_float32_than_without(
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
                weight.data = (0.1 * numbers(*weight.shape, seed=len(name))).float()
        shared_prefix.register()
        model.get_base_model().set_attn_implementation(shared_prefix.NAME)
        learned = [weight for name, weight in model.named_parameters() if "lora_" in name]
        with autocast(model):
            states = packed_hidden_states(get_backbone(model), line).float()
        return list(torch.autograd.grad((states * numbers(*states.shape).float()).sum(), learned))

    calls: list[str] = []
    own = build.call

    def noted(library: Any, name: str, *arguments: Any) -> None:
        calls.append(name)
        own(library, name, *arguments)

    monkeypatch.setattr(build, "call", noted)
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
        "apply_rope",
    }
    monkeypatch.setattr(attention, "is_available", lambda *_: False)
    monkeypatch.setattr(pointwise, "is_available", lambda: False)
    monkeypatch.setattr(lora_linear, "is_available", lambda: False)
    plain = gradients(torch.bfloat16)
    far, without = (
        sum(float((a.float() - b).norm()) for a, b in zip(found, exact, strict=True))
        for found in (ours, plain)
    )
    assert far <= 1.1 * without


def test_it_is_compiled_once(afresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    for _ in range(2):
        assert build.load_library("pointwise") is not None
        build.load_library.cache_clear()
    made = sorted((tmp_path / "compiled").iterdir())
    assert len(made) == 1 and made[0].suffix == ".so"
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    assert build.load_library("pointwise") is not None


def test_without_a_compiler_nothing_is_missing(
    afresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "notify", lambda *_: pytest.fail("nobody needs to know"))
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert build.why_unsupported() and not (
        pointwise.is_available() or lora_linear.is_available() or attention.is_available(64)
    )
    gate = numbers(130, 256)
    assert (
        off(pointwise.swiglu(gate, gate), torch.nn.functional.silu(gate.float()) * gate.float())
        < ROUNDING
    )


def test_a_compiler_that_fails_is_named(
    afresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: told.append(text))
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "cc"
    broken.write_text(
        "#!/bin/sh\nif [ $1 = --version ]; then echo 1; else echo no such option >&2; exit 1; fi\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert build.load_library("pointwise") is None and build.load_library("pointwise") is None
    assert (
        len(told) == 1
        and "pointwise.c" in told[0]
        and str(broken) in told[0]
        and "no such option" in told[0]
    )


def test_code_that_computes_something_else_is_not_used(
    afresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> None:
        """Leaves every result as it was."""

    monkeypatch.setattr(build, "call", nothing)
    monkeypatch.setattr(torch, "empty_like", torch.zeros_like)
    monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    assert not (
        pointwise.is_available() or lora_linear.is_available() or attention.is_available(64)
    )


@pytest.mark.parametrize("whose", ["file", "folder"])
def test_code_that_others_could_change_is_not_loaded(
    whose: str, afresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: told.append(text))
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert build.load_library("pointwise") is not None and not told
    build.load_library.cache_clear()
    folder = tmp_path / "compiled"
    (folder if whose == "folder" else next(folder.iterdir())).chmod(0o777)
    assert (
        build.load_library("pointwise") is None and len(told) == 1 and "PROOFTUNE_CACHE" in told[0]
    )


def test_damaged_code_is_named(
    afresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(build, "notify", lambda text, *_: told.append(text))
    monkeypatch.setattr(
        build,
        "compile_library",
        lambda *given_: given_[-1].parent.mkdir(mode=0o700) or given_[-1].write_bytes(b"x"),
    )
    monkeypatch.setenv("PROOFTUNE_CACHE", str(tmp_path))
    assert (
        build.load_library("pointwise", SIZE=1) is None
        and len(told) == 1
        and str(tmp_path) in told[0]
    )


def test_it_can_be_done_without() -> None:
    code = "from prooftune.engine.kernels import build; print(build.load_library('pointwise'))"
    for value, wanted in (("0", True), ("1", False)):
        command, variables = [sys.executable, "-c", code], os.environ | {"PROOFTUNE_COMPILE": value}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        assert (done.stdout.strip() == "None") is wanted


def test_the_environment_says_what_was_used(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"device": "cpu", "dtype": "bfloat16", "attention": shared_prefix.NAME}
    for config, wanted in (
        ({"head_dim": 64}, "attention, pointwise"),
        ({"head_dim": 40}, "pointwise"),
        ({"hidden_size": 256, "num_attention_heads": 4}, "attention, pointwise"),
        ({"head_dim": 64, "attn_logit_softcapping": 50.0}, "pointwise"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert environment._compiled(how, tmp_path) == wanted
        assert environment._compiled(how | {"dtype": "float32"}, tmp_path) == "none"
        assert environment._compiled(how | {"device": "cuda"}, tmp_path) == "none"
    assert environment._compiled(how | {"attention": "sdpa"}, model_folders["llama"]) == "pointwise"
    monkeypatch.setattr(pointwise, "is_available", lambda: False)
    assert environment._compiled(how | {"attention": "sdpa"}, model_folders["llama"]) == "none"
