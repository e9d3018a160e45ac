"""Fused layers and the sparse last layer match the model's own, and are skipped if unsupported."""

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
"""Weights of the hidden states in the loss: a sum of squares after a norm is constant."""
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load_base(folder: Path, dtype: str = "float32") -> Any:
    return load_model(
        folder,
        recipe.Model.model_validate(
            {"name": "tiny", "dtype": dtype, "attention": shared_prefix.NAME}
        ),
    )


def load_lora(
    folder: Path, dtype: str = "float32", targets: Any = "all-linear", **lora: Any
) -> Any:
    torch.manual_seed(0)
    model = adapters.make_trainable(
        load_base(folder, dtype),
        recipe.Variant(kind="tuned"),
        {"r": 4, "target_modules": targets, **lora},
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # initialized with zeros, which would hide the adapters
            nn.init.normal_(parameter, std=0.05)
    return model


def outcome(model: Any, ids: Tensor = IDS) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and the gradients of all trainable parameters."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        hidden = get_backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    (hidden.float() * WEIGHTS[..., : hidden.shape[-1]]).sum().backward()
    return hidden.detach().float(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def compare(model: Any, tolerance: float) -> int:
    """Check that fused layers match; return the number of patched modules."""
    expected, expected_grads = outcome(model)
    with patching.fused(model):
        replaced = sum("forward" in vars(module) for module in model.modules())
        actual, grads = outcome(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert (actual - expected).norm() <= tolerance * expected.norm()
    assert grads.keys() == expected_grads.keys() and (grads or not model.training)
    for name, grad in grads.items():
        assert (grad - expected_grads[name]).norm() <= 3 * tolerance * expected_grads[
            name
        ].norm(), name
    return replaced


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "v_proj"], ["k_proj", "up_proj", "down_proj"]]
)
def test_fused_layers_match_the_models_own(model_folder: Path, targets: Any) -> None:
    model = load_lora(model_folder, targets=targets).train()
    replaced = compare(model, 1e-5)
    linears = sum(
        name.split(".")[-1] in (ALL if targets == "all-linear" else targets)
        and hasattr(module, "lora_A")
        for name, module in model.named_modules()
    )
    llama = type(model.get_base_model()).__name__.startswith("Llama")
    layers = model.config.num_hidden_layers if llama else 0
    norms, mlps = (2 * layers + 1, layers) if llama else (0, 0)
    attentions = layers if targets == "all-linear" else 0
    assert replaced == linears + norms + mlps + attentions + layers


@pytest.mark.slow
def test_fused_layers_in_bfloat16_are_no_farther_from_float32(model_folder: Path) -> None:
    """Both round, at different points of the same float32 computation."""
    model = load_lora(model_folder, "bfloat16").train()
    exact, errors = copy.deepcopy(model).float(), torch.zeros(2, 2)
    for ids in torch.randint(3, 400, (12, *IDS.shape), generator=torch.Generator().manual_seed(0)):
        exact_states, true_grads = outcome(exact, ids)
        expected = outcome(model, ids)
        with patching.fused(model):
            actual = outcome(model, ids)
        for errors_of, (states_, grads) in zip(errors, (actual, expected), strict=True):
            errors_of[0] += (states_ - exact_states).square().sum()
            errors_of[1] += sum(
                (grads[name] - grad).square().sum() for name, grad in true_grads.items()
            )
        assert all(grad.dtype == expected[1][name].dtype for name, grad in actual[1].items())
    state_ratio, grad_ratio = (errors[0] / errors[1]).sqrt().tolist()
    assert 0.5 < state_ratio < 1.05 and 0.5 < grad_ratio < 1.05


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
def test_other_adapter_types_match_peft(model_folder: Path, lora: dict[str, Any]) -> None:
    compare(load_lora(model_folder, **lora).eval(), 1e-5)


def test_dropout_stays_pefts(model_folder: Path) -> None:
    model = load_lora(model_folder, lora_dropout=0.5).train()
    torch.manual_seed(1)
    expected, _ = outcome(model)
    with patching.fused(model):
        torch.manual_seed(1)
        actual, _ = outcome(model)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_disabled_and_merged_adapters(model_folder: Path) -> None:
    model = load_lora(model_folder).eval()
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


def test_a_different_norm_is_not_replaced(model_folders: dict[str, Path]) -> None:
    """A norm that adds 1 to its weight, as Gemma's, has the same attributes."""
    model = load_base(model_folders["llama"])
    norm: Any = get_backbone(model).norm

    class Shifted(type(norm)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) + x

    norm.__class__ = Shifted
    with patching.fused(model):
        assert "forward" not in vars(norm)
        layer: Any = get_backbone(model).layers[0]  # type: ignore[index]
        assert "forward" in vars(layer.input_layernorm)


def test_pending_outputs_are_used_for_the_same_input_only(model_folders: dict[str, Path]) -> None:
    """A layer called twice, or on another input, does not get a pending output."""
    model = load_lora(model_folders["llama"]).eval()
    attn: Any = get_backbone(model).layers[0].self_attn  # type: ignore[index,union-attr]
    first, second = torch.randn(2, 1, 5, model.config.hidden_size)
    expected = [
        attn.q_proj(first),
        attn.k_proj(second),
        attn.k_proj(first),
        attn.v_proj(first),
        attn.q_proj(first),
    ]
    with patching.fused(model):
        actual = [
            attn.q_proj(first),
            attn.k_proj(second),
            attn.k_proj(first),
            attn.v_proj(first),
            attn.q_proj(first),
        ]
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_fused_rope_and_its_gradient_match_transformers() -> None:
    original, results = modeling_llama.apply_rotary_pos_emb, []
    cos, sin = torch.randn(2, 2, 3, 8)
    for rope_function in (original, rope.fused_rope(original)):
        q, k = torch.randn(2, 4, 3, 8).requires_grad_(), torch.randn(2, 2, 3, 8).requires_grad_()
        with torch.no_grad():
            q.copy_(torch.arange(192.0).view(q.shape).sin())
            k.copy_(torch.arange(96.0).view(k.shape).cos())
        rotated = rope_function(q, k, cos, sin)
        sum((t * t.cos()).sum() for t in rotated).backward()
        results.append([*rotated, q.grad, k.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_different_rope_function_is_not_replaced(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, original = load_base(model_folders["llama"]), modeling_llama.apply_rotary_pos_emb
    with patching.fused(model):
        assert modeling_llama.apply_rotary_pos_emb is not original
    assert modeling_llama.apply_rotary_pos_emb is original

    def negated_sin(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        return original(q, k, cos, -sin)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", negated_sin)
    with patching.fused(model):
        assert modeling_llama.apply_rotary_pos_emb is negated_sin


ROWS = [[5, 6, 7], [9], list(range(10, 33))]
LOGIT_POSITIONS = [[2], [0], [7, 7, 22]]


def states(body: nn.Module) -> list[Tensor]:
    return [
        packed_hidden_states(body, pack_sequences([40, 41, 42], ROWS, LOGIT_POSITIONS)),
        hidden_states(body, collate(ROWS, LOGIT_POSITIONS, 0), None),
    ]


def disable_sparse_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_last_layer, "per_token_modules", lambda body: [])


@pytest.mark.parametrize("make", [load_base, load_lora])
def test_sparse_last_layer_matches_the_full_layer(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    model = make(model_folder).train()
    body, results = get_backbone(model), []
    assert sparse_last_layer.per_token_modules(body)
    for _ in range(2):
        model.zero_grad()
        actual = states(body)
        sum(
            (state * WEIGHTS[0, : len(state), : state.shape[1]]).sum() for state in actual
        ).backward()  # type: ignore[union-attr]
        results.append(
            (actual, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
        disable_sparse_last_layer(monkeypatch)
    (sparse, sparse_grads), (full, full_grads) = results
    torch.testing.assert_close(sparse, full, atol=1e-5, rtol=1e-4)
    assert sparse_grads.keys() == full_grads.keys()
    for name, grad in sparse_grads.items():
        torch.testing.assert_close(
            grad, full_grads[name], atol=1e-4 * float(full_grads[name].abs().max()), rtol=1e-3
        )


def test_sparse_last_layer_computes_logit_positions_only(model_folders: dict[str, Path]) -> None:
    body: Any = get_backbone(load_base(model_folders["llama"]))
    row_counts: list[int] = []
    for layer in body.layers:
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, inputs, __: row_counts.append(inputs[0].shape[-2])
        )
    with torch.no_grad():
        packed_hidden_states(body, pack_sequences([40, 41, 42], ROWS, LOGIT_POSITIONS))
    # 27 tokens, a prefix of 3 and 2 of padding; one logit position occurs twice.
    assert row_counts == [32] * (len(row_counts) - 1) + [5]


@pytest.mark.parametrize("make", [load_base, load_lora])
def test_batch_without_logit_positions(model_folder: Path, make: Callable[..., Any]) -> None:
    """A common prefix is prefilled only for its keys and values."""
    model, cache = make(model_folder).eval(), KVCache()
    with torch.no_grad(), patching.fused(model):
        assert hidden_states(
            get_backbone(model), collate([[5, 6, 7]], [[]], 0), None, cache
        ).shape == (
            0,
            model.config.hidden_size,
        )
    assert len(cache.layers()) == model.config.num_hidden_layers


def test_checkpointed_layers_are_computed_in_full(model_folders: dict[str, Path]) -> None:
    model = load_lora(model_folders["llama"]).train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert not sparse_last_layer.per_token_modules(get_backbone(model))
    with patching.fused(model):
        torch.autograd.backward([state.sum() for state in states(get_backbone(model))])
