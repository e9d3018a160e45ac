"""Fused layers and a last layer computed where it is read give what the model's own give, and stand
back where they do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from prooftune import recipe
from prooftune.engine import sparse_last_layer
from prooftune.engine.attention import shared_prefix
from prooftune.engine.batching import collate
from prooftune.engine.forward import hidden_states, packed_hidden_states
from prooftune.engine.fused import patching, rope
from prooftune.engine.kv_cache import KVCache
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.models import adapters
from prooftune.models.loading import load_model

IDS = torch.arange(3, 43).view(2, 20)
WEIGHTS = torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(0))
"""Of the hidden states in what is differentiated: a norm's output has the same square whatever it
is."""
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def plain(folder: Path, dtype: str = "float32") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    )


def adapted(folder: Path, dtype: str = "float32", targets: Any = "all-linear", **lora: Any) -> Any:
    torch.manual_seed(0)
    model = adapters.make_trainable(
        plain(folder, dtype),
        recipe.Variant(kind="tuned"),
        {"r": 4, "target_modules": targets, **lora},
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide what becomes of the adapters
            nn.init.normal_(parameter, std=0.05)
    return model


def outcome(model: Any, ids: Tensor = IDS) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and the gradients of what is learned."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        hidden = get_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    (hidden.float() * WEIGHTS[..., : hidden.shape[-1]]).sum().backward()
    return hidden.detach().float(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def compare(model: Any, tolerance: float) -> int:
    """Check that fused layers change nothing; how many modules were replaced."""
    wanted, wanted_grads = outcome(model)
    with patching.fused(model):
        replaced = sum("forward" in vars(module) for module in model.modules())
        got, grads = outcome(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert (got - wanted).norm() <= tolerance * wanted.norm()
    assert grads.keys() == wanted_grads.keys() and (grads or not model.training)
    for name, grad in grads.items():
        assert (grad - wanted_grads[name]).norm() <= 3 * tolerance * wanted_grads[name].norm(), name
    return replaced


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], ["k_proj", "up_proj", "down_proj"]]
)
def test_fused_layers_change_nothing(model_folder: Path, targets: Any) -> None:
    model = adapted(model_folder, targets=targets).train()
    replaced = compare(model, 1e-5)
    linears = sum(
        name.split(".")[-1] in (ALL if targets == "all-linear" else targets)
        and hasattr(module, "lora_A")
        for name, module in model.named_modules()
    )
    llama = type(model.get_base_model()).__name__.startswith("Llama")
    norms, mlps = (
        (2 * model.config.num_hidden_layers + 1, model.config.num_hidden_layers)
        if llama
        else (0, 0)
    )
    assert replaced == linears + norms + mlps


def test_in_16_bits_fused_layers_are_no_farther_from_the_truth(model_folder: Path) -> None:
    """Both round, at different places; what they round is the same in float32."""
    model = adapted(model_folder, "bfloat16").train()
    exact, errors = copy.deepcopy(model).float(), torch.zeros(2, 2)
    for ids in torch.randint(3, 400, (12, *IDS.shape), generator=torch.Generator().manual_seed(0)):
        truth, true_grads = outcome(exact, ids)
        wanted = outcome(model, ids)
        with patching.fused(model):
            got = outcome(model, ids)
        for errors_of, (states_, grads) in zip(errors, (got, wanted), strict=True):
            errors_of[0] += (states_ - truth).square().sum()
            errors_of[1] += sum(
                (grads[name] - grad).square().sum() for name, grad in true_grads.items()
            )
        assert all(grad.dtype == wanted[1][name].dtype for name, grad in got[1].items())
    of_states, of_grads = (errors[0] / errors[1]).sqrt().tolist()
    assert 0.5 < of_states < 1.05 and 0.5 < of_grads < 1.05


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_dropout": 0.5},
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"k_proj": 7}},
        {"alpha_pattern": {"q_proj": 99}},
    ],
    ids=lambda o: next(iter(o)),
)
def test_other_adapters_are_computed_right(model_folder: Path, lora: dict[str, Any]) -> None:
    compare(adapted(model_folder, **lora).eval(), 1e-5)


def test_dropout_stays_that_of_the_library(model_folder: Path) -> None:
    model = adapted(model_folder, lora_dropout=0.5).train()
    torch.manual_seed(1)
    wanted, _ = outcome(model)
    with patching.fused(model):
        torch.manual_seed(1)
        got, _ = outcome(model)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_switched_off_and_merged_adapters(model_folder: Path) -> None:
    model = adapted(model_folder).eval()
    with torch.no_grad():
        with model.disable_adapter():
            untuned = get_backbone(model)(input_ids=IDS).last_hidden_state
            with patching.fused(model):
                torch.testing.assert_close(
                    get_backbone(model)(input_ids=IDS).last_hidden_state,
                    untuned,
                    atol=1e-5,
                    rtol=1e-4,
                )
        tuned = get_backbone(model)(input_ids=IDS).last_hidden_state
        assert not torch.allclose(tuned, untuned, atol=1e-3)
        with patching.fused(model):
            model.merge_adapter()
            torch.testing.assert_close(
                get_backbone(model)(input_ids=IDS).last_hidden_state, tuned, atol=1e-4, rtol=1e-3
            )


def test_a_norm_that_is_another_is_left_alone(model_folders: dict[str, Path]) -> None:
    """One that adds 1 to its weight looks the same from outside."""
    model = plain(model_folders["llama"])
    norm: Any = get_backbone(model).norm

    class Shifted(type(norm)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) + x

    norm.__class__ = Shifted
    with patching.fused(model):
        assert "forward" not in vars(norm)
        assert "forward" in vars(get_backbone(model).layers[0].input_layernorm)  # type: ignore[index,union-attr]


def test_inputs_are_told_apart_by_what_they_are(model_folders: dict[str, Path]) -> None:
    """A layer that is called twice, or on another input than its neighbours, is not given what
    waits for it."""
    model = adapted(model_folders["llama"]).eval()
    attn: Any = get_backbone(model).layers[0].self_attn  # type: ignore[index,union-attr]
    one, two = torch.randn(2, 1, 5, model.config.hidden_size)
    wanted = [
        attn.q_proj(one),
        attn.k_proj(two),
        attn.k_proj(one),
        attn.v_proj(one),
        attn.q_proj(one),
    ]
    with patching.fused(model):
        got = [
            attn.q_proj(one),
            attn.k_proj(two),
            attn.k_proj(one),
            attn.v_proj(one),
            attn.q_proj(one),
        ]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_turning_and_its_gradient_are_the_librarys() -> None:
    own, found = modeling_llama.apply_rotary_pos_emb, []
    cos, sin = torch.randn(2, 2, 3, 8)
    for turn in (own, rope.fused_rope(own)):
        q, k = torch.randn(2, 4, 3, 8).requires_grad_(), torch.randn(2, 2, 3, 8).requires_grad_()
        with torch.no_grad():
            q.copy_(torch.arange(192.0).view(q.shape).sin())
            k.copy_(torch.arange(96.0).view(k.shape).cos())
        turned = turn(q, k, cos, sin)
        sum((t * t.cos()).sum() for t in turned).backward()
        found.append([*turned, q.grad, k.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_function_that_turns_otherwise_is_left_alone(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, own = plain(model_folders["llama"]), modeling_llama.apply_rotary_pos_emb
    with patching.fused(model):
        assert modeling_llama.apply_rotary_pos_emb is not own
    assert modeling_llama.apply_rotary_pos_emb is own

    def backwards(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        return own(q, k, cos, -sin)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", backwards)
    with patching.fused(model):
        assert modeling_llama.apply_rotary_pos_emb is backwards


ROWS = [[5, 6, 7], [9], list(range(10, 33))]
READ = [[2], [0], [7, 7, 22]]


def states(body: nn.Module) -> list[Tensor]:
    return [
        packed_hidden_states(body, pack_sequences([40, 41, 42], ROWS, READ)),
        hidden_states(body, collate(ROWS, READ, 0), None),
    ]


def read_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_last_layer, "per_token_modules", lambda body: [])


@pytest.mark.parametrize("make", [plain, adapted])
def test_the_last_layer_where_it_is_read(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    model = make(model_folder).train()
    body, found = get_backbone(model), []
    assert sparse_last_layer.per_token_modules(body)
    for _ in range(2):
        model.zero_grad()
        got = states(body)
        sum((state * WEIGHTS[0, : len(state), : state.shape[1]]).sum() for state in got).backward()  # type: ignore[union-attr]
        found.append(
            (got, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
        read_everywhere(monkeypatch)
    (narrow, narrow_grads), (wide, wide_grads) = found
    torch.testing.assert_close(narrow, wide, atol=1e-5, rtol=1e-4)
    assert narrow_grads.keys() == wide_grads.keys()
    for name, grad in narrow_grads.items():
        torch.testing.assert_close(
            grad, wide_grads[name], atol=1e-4 * float(wide_grads[name].abs().max()), rtol=1e-3
        )


def test_the_last_layer_computes_no_more_than_is_read(model_folders: dict[str, Path]) -> None:
    body: Any = get_backbone(plain(model_folders["llama"]))
    seen: list[int] = []
    for layer in body.layers:
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, inputs, __: seen.append(inputs[0].shape[-2])
        )
    with torch.no_grad():
        packed_hidden_states(body, pack_sequences([40, 41, 42], ROWS, READ))
    # Of 27 tokens, a prefix of 3, and 2 that fill the line up; one place is read twice.
    assert seen == [32] * (len(seen) - 1) + [4]


@pytest.mark.parametrize("make", [plain, adapted])
def test_a_batch_of_which_nothing_is_read(model_folder: Path, make: Callable[..., Any]) -> None:
    """The common beginning of several questions on one text is computed for its keys and values
    alone."""
    model, kept = make(model_folder).eval(), KVCache()
    with torch.no_grad(), patching.fused(model):
        assert hidden_states(
            get_backbone(model), collate([[5, 6, 7]], [[]], 0), None, kept
        ).shape == (
            0,
            model.config.hidden_size,
        )
    assert len(kept.layers()) == model.config.num_hidden_layers


def test_layers_that_are_computed_again_are_computed_whole(model_folders: dict[str, Path]) -> None:
    model = adapted(model_folders["llama"]).train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert not sparse_last_layer.per_token_modules(get_backbone(model))
    with patching.fused(model):
        sum(state.sum() for state in states(get_backbone(model))).backward()  # type: ignore[union-attr]
