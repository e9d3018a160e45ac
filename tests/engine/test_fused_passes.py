"""RoPE in attention's passes, residual additions in those of norms, and gated MLPs as one function
change no result."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GlmConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from engine_helpers import LLAMA3_ROPE
from prooftune import recipe
from prooftune.engine.attention import backends, rope, shared_prefix
from prooftune.engine.batching import collate
from prooftune.engine.forward import compute_prefix_cache, hidden_states, packed_hidden_states
from prooftune.engine.fused import decoder_layer, gated_mlp, lora, packed_attention, patching
from prooftune.engine.fused import rope as rope_function
from prooftune.engine.kernels import attention, build
from prooftune.engine.kernels.int8_linear import use_int8_linear
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import autocast
from prooftune.models import adapters

pytestmark = pytest.mark.kernel

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": None,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
    "mistral": MistralConfig(**SIZES, sliding_window=40),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, sliding_window=40),
}
# Enough tokens for the compiled kernels.
PREFIX, ROWS = list(range(30)), [[7 + i % 90 for i in range(n)] for n in (70, 33, 60)]
POSITIONS = [[len(row) - 2, len(row) - 1] for row in ROWS]


@pytest.fixture(autouse=True)
def kernels() -> None:
    if reason := build.why_unsupported(torch.float32):
        pytest.skip(f"no compiled code here: {reason}")


def tuned(config: PretrainedConfig, dtype: torch.dtype, **lora: Any) -> Any:
    backends.register()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=shared_prefix.NAME
    )
    model = adapters.make_trainable(model, recipe.Variant(kind="tuned"), {"r": 8, **lora})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def states(model: Any) -> Tensor:
    return packed_hidden_states(get_backbone(model), pack_sequences(PREFIX, ROWS, POSITIONS))


def outcome(model: Any) -> list[Tensor]:
    """Hidden states, and the gradients of all adapters, with fused layers."""
    model.zero_grad()
    torch.manual_seed(1)  # dropout
    with autocast(model):
        hidden = states(model)
        weights = torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)
        # Checkpointed layers are recomputed here.
        torch.autograd.backward((hidden.float() * weights).sum())
    return [hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@contextmanager
def separate_passes() -> Iterator[None]:
    """RoPE, residual additions, and the layers of MLPs as separate operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora.FusedLoraGroup, "computes_plain_lora", lambda *_: False)
        patch.setattr(rope_function, "can_defer", lambda *_: False)
        patch.setattr(decoder_layer, "_is_known", lambda *_: False)
        patching._PATCHES.clear()
        yield
    patching._PATCHES.clear()


def compiled_calls(model: Any) -> list[str]:
    calls: list[str] = []
    original = build.call

    def recorded(library: Any, name: str, *arguments: Any) -> None:
        calls.append(name)
        original(library, name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "call", recorded)
        outcome(model)
    return calls


def assert_same(model: Any) -> None:
    actual = outcome(model)
    with separate_passes():
        expected = outcome(model)
    assert len(actual) == len(expected) > 3
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(build.why_unsupported() is not None, reason="no bfloat16 kernels"),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_bit_is_that_of_separate_passes(name: str, dtype: torch.dtype) -> None:
    model = tuned(CONFIGS[name], dtype)
    assert_same(model)
    # Gemma 2 has four norms per layer, and soft-capped scores.
    assert ("apply_rope" in compiled_calls(model)) is (name == "gemma2")
    with autocast(model):
        layer: Any = get_backbone(model).layers[0]  # type: ignore[index]
        assert ("forward" in vars(layer)) is (name != "gemma2")


@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads(threads: int) -> None:
    model, before = tuned(CONFIGS["llama"], torch.float32), torch.get_num_threads()
    expected = outcome(model)
    try:
        torch.set_num_threads(threads)
        actual = outcome(model)
    finally:
        torch.set_num_threads(before)
    assert_close(actual, expected)


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_dropout_of_adapters() -> None:
    assert_same(tuned(CONFIGS["llama"], torch.float32, lora_dropout=0.5))


def test_gradient_checkpointing() -> None:
    model = tuned(CONFIGS["llama"], torch.float32)
    expected = outcome(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    assert_close(outcome(model), expected)


def test_trainable_norms_are_computed_by_themselves() -> None:
    model = tuned(CONFIGS["llama"], torch.float32)
    layer: Any = get_backbone(model).layers[1]  # type: ignore[index]
    layer.input_layernorm.weight.requires_grad_()
    assert_same(model)
    assert layer.input_layernorm.weight.grad is not None


def test_hooks_on_layers_and_norms_are_called() -> None:
    model, seen = tuned(CONFIGS["llama"], torch.float32), []
    expected = outcome(model)
    layers: Any = get_backbone(model).layers
    for module in (layers[1].input_layernorm, layers[0].post_attention_layernorm, layers[1]):
        module.register_forward_hook(lambda _, __, out: seen.append(out))
    assert_close(outcome(model), expected)
    assert len(seen) == 3
    # The next layer must not take the norm of what the hook has replaced.
    layers[0].register_forward_hook(lambda _, __, out: out * 2)
    assert_same(model)
    assert not torch.allclose(outcome(model)[0], expected[0], rtol=0.01)


def test_a_hook_that_changes_a_layers_output_in_place() -> None:
    model = tuned(CONFIGS["llama"], torch.float32).eval()
    layers: Any = get_backbone(model).layers

    def steer(_: Any, __: Any, out: Tensor) -> None:
        out[..., :64] *= 3

    layers[0].register_forward_hook(steer)
    with torch.no_grad():
        expected = states(model)
        with autocast(model):
            actual = states(model)
    assert_close([actual], [expected])


def test_hidden_states_of_layers_are_recorded() -> None:
    model = tuned(CONFIGS["llama"], torch.float32).eval()
    body, ids = get_backbone(model), torch.arange(140)[None]
    with torch.no_grad():
        expected = body(ids, output_hidden_states=True, use_cache=False).hidden_states
        with autocast(model):
            actual = body(ids, output_hidden_states=True, use_cache=False).hidden_states
    assert len(actual) == 4
    assert_close(list(actual), list(expected))


def test_a_cached_prefix() -> None:
    model = tuned(CONFIGS["llama"], torch.float32).eval()
    body, prefix, results = get_backbone(model), [*PREFIX, *ROWS[0], *ROWS[2]], []
    batch = collate([ROWS[1], ROWS[0]], [[3], [5]], 0)
    with torch.no_grad():
        results.append(hidden_states(body, batch, compute_prefix_cache(body, prefix)))
        with autocast(model):
            results.append(hidden_states(body, batch, compute_prefix_cache(body, prefix)))
    assert_close(results[1:], results[:1])


def calls_of(function: Any, model: Any) -> int:
    """How often a forward pass calls an autograd function."""
    calls, original = 0, function.apply

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch, autocast(model):
        patch.setattr(function, "apply", counted)
        states(model)
    return calls


def fused_mlps(model: Any) -> int:
    return calls_of(gated_mlp._LoraGatedMLP, model)


def fused_attention(model: Any) -> int:
    return calls_of(packed_attention._PackedSelfAttention, model)


def decoder_layers(model: Any) -> Any:
    return get_backbone(model).layers


@pytest.mark.parametrize("rank", [8, 4, 1])
def test_gated_mlps_are_one_function(rank: int) -> None:
    model = tuned(CONFIGS["llama"], torch.float32, r=rank)
    assert fused_mlps(model) == 3
    assert_same(model)


def test_layers_of_an_mlp_that_differ() -> None:
    targets = ["q_proj", "gate_proj", "up_proj"]
    assert fused_mlps(tuned(CONFIGS["llama"], torch.float32, target_modules=targets)) == 0
    model = tuned(CONFIGS["llama"], torch.float32, alpha_pattern={"up_proj": 64})
    assert fused_mlps(model) == 0
    assert_same(model)
    # `down` may have another factor.
    model = tuned(CONFIGS["llama"], torch.float32, alpha_pattern={"down_proj": 64})
    assert fused_mlps(model) == 3
    assert_same(model)


def test_other_arithmetic_in_an_mlp() -> None:
    model = tuned(CONFIGS["llama"], torch.float32)
    with use_int8_linear():
        assert fused_mlps(model) == 0
    with model.disable_adapter():
        assert fused_mlps(model) == 0
    model = tuned(CONFIGS["llama"], torch.float32, lora_dropout=0.5)
    assert fused_mlps(model) == fused_attention(model) == 0


def test_an_input_of_an_mlp_without_gradient() -> None:
    model = tuned(CONFIGS["llama"], torch.float32)
    mlp = decoder_layers(model)[0].mlp
    x = torch.randn(2, 70, 128)
    grads = []
    for needs_grad in (False, True):
        model.zero_grad()
        with autocast(model):
            mlp(x.requires_grad_(needs_grad)).square().sum().backward()
        grads.append([p.grad for p in mlp.parameters() if p.grad is not None])
    assert len(grads[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


# The last of three layers computes its output projection at the targets only.
@pytest.mark.parametrize(
    ("name", "layers"),
    [("llama", 2), ("llama3", 2), ("mistral", 2), ("qwen2", 0), ("gemma2", 0)],  # biases, soft cap
)
def test_attention_is_one_function(name: str, layers: int) -> None:
    assert fused_attention(tuned(CONFIGS[name], torch.float32)) == layers


@pytest.mark.parametrize("rank", [4, 1])
def test_attention_with_ranks_that_are_padded(rank: int) -> None:
    model = tuned(CONFIGS["mistral"], torch.float32, r=rank)
    assert fused_attention(model) == 2
    assert_same(model)


@pytest.mark.parametrize(
    "path",
    [f"mlp.{n}_proj" for n in ("gate", "up", "down")] + [f"self_attn.{n}_proj" for n in "qvo"],
)
def test_hooks_on_layers_within_a_function_are_called(path: str) -> None:
    model = tuned(CONFIGS["llama"], torch.float32)
    layer = decoder_layers(model)[0].get_submodule(path)
    layer.register_forward_hook(lambda _, __, out: out * 2)
    # Of three MLPs; the last layer's attention is never one function.
    assert (fused_mlps(model), fused_attention(model)) == ((2, 2) if "mlp" in path else (3, 1))
    assert_same(model)


def test_attention_with_other_adapters() -> None:
    model = tuned(CONFIGS["llama"], torch.float32, target_modules=["q_proj", "v_proj", "o_proj"])
    assert fused_attention(model) == 0
    model = tuned(CONFIGS["llama"], torch.float32, alpha_pattern={"o_proj": 64})
    assert fused_attention(model) == 2
    assert_same(model)


def test_attention_of_rows_that_are_not_packed() -> None:
    model = tuned(CONFIGS["llama"], torch.float32).eval()
    body, batch = get_backbone(model), collate([ROWS[0] * 3, ROWS[1]], [[3], [5]], 0)
    with torch.no_grad():
        expected = hidden_states(body, batch, None)
        with autocast(model):
            actual = hidden_states(body, batch, None)
    assert_close([actual], [expected])


def attention_module(config: PretrainedConfig) -> Any:
    return decoder_layers(AutoModelForCausalLM.from_config(config))[0].self_attn


@pytest.mark.parametrize(
    ("config", "formula"),
    [
        (LlamaConfig, (64**-0.5, None)),
        (Qwen2Config, (64**-0.5, None)),
        (MistralConfig, (64**-0.5, 40)),
        (GraniteConfig, (0.2, None)),
        (Gemma2Config, None),  # soft-capped
        (Qwen3Config, None),  # normalizes queries and keys
        (CohereConfig, None),  # rotates neighbours
        (GlmConfig, None),  # rotates half of each head
        (Phi3Config, None),  # one projection
    ],
)
def test_formula_of_attention(
    config: type[PretrainedConfig], formula: tuple[float, int | None] | None
) -> None:
    more = {"sliding_window": 40, "attention_multiplier": 0.2, "layer_types": None}
    kinds = {MistralConfig: ["sliding_window"], GraniteConfig: ["attention_multiplier"]}
    sizes = SIZES | {"num_hidden_layers": 1}
    module = attention_module(config(**sizes, **{k: more[k] for k in kinds.get(config, [])}))
    actual = packed_attention.find_formula(module)
    assert actual == (formula and packed_attention.AttentionFormula(*formula))
    assert "trial" not in str(module.config._attn_implementation)


def test_attention_that_changes_its_input() -> None:
    module = attention_module(LlamaConfig(**SIZES))
    original = type(module)

    class Scaled(original):  # type: ignore[misc,valid-type]
        def forward(self, hidden_states: Tensor, **options: Any) -> Any:
            return original.forward(self, hidden_states * 2, **options)

    class ScaledInTraining(original):  # type: ignore[misc,valid-type]
        def forward(self, hidden_states: Tensor, **options: Any) -> Any:
            self.scaling = 1.0 if self.training else 2.0
            return original.forward(self, hidden_states, **options)

    for changed in (Scaled, ScaledInTraining):
        other = copy.copy(module)
        other.__class__ = changed
        assert packed_attention.find_formula(other) is None


SMALL = SIZES | {"hidden_size": 32, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (LlamaConfig(**SMALL), True),
        (Qwen2Config(**SMALL), True),
        (GraniteConfig(**SMALL, residual_multiplier=0.2), False),
        (Phi3Config(**SMALL), False),
        (Gemma2Config(**SMALL), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_known_decoder_layers(config: PretrainedConfig, known: bool) -> None:
    model = AutoModelForCausalLM.from_config(config)
    replaced = [module for module, _ in patching.PatchedModules(model).forwards]
    assert (get_backbone(model).layers[0] in replaced) is known  # type: ignore[index,operator]


def test_layers_of_another_formula_are_not_replaced() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL))
    layer: Any = get_backbone(model).layers[0]  # type: ignore[index]
    original = type(layer)

    class Scaled(original):  # type: ignore[misc,valid-type]
        def forward(self, hidden_states: Tensor, **options: Any) -> Any:
            return original.forward(self, hidden_states, **options) * (0.5 if self.training else 1)

    class MaskDropped(original):  # type: ignore[misc,valid-type]
        def forward(self, hidden_states: Tensor, **options: Any) -> Any:
            return original.forward(self, hidden_states, **(options | {"attention_mask": 0}))

    norms: Any = {layer.input_layernorm: None, layer.post_attention_layernorm: None}
    assert decoder_layer._is_known(layer, norms)
    assert not decoder_layer._is_known(layer, {layer.input_layernorm: print})
    for changed in (Scaled, MaskDropped):
        other = copy.copy(layer)
        other.__class__ = changed
        assert not decoder_layer._is_known(other, norms)


def deferred() -> tuple[rope.DeferredRope, Tensor]:
    x = torch.randn(1, 150, 4, 32).transpose(1, 2).requires_grad_()
    angles = torch.randn(1, 1, 150, 32), torch.randn(1, 1, 150, 32)
    assert rope.can_defer(x, *angles)
    return rope.DeferredRope.of(x, angles), rope.apply_rope(x, *angles)


def test_a_deferred_tensor_is_the_rotated_one_to_all_functions() -> None:
    lazy, expected = deferred()
    assert isinstance(lazy, Tensor) and lazy.shape == expected.shape and lazy.requires_grad
    for actual in (lazy + 0, torch.cat([lazy]), lazy[:], torch.add(input=lazy, other=0)):
        assert type(actual) is Tensor and torch.equal(actual, expected)
    expected_grad, actual_grad = (
        torch.autograd.grad(t.square().sum(), lazy.unrotated, retain_graph=True)[0]
        for t in (expected, lazy)
    )
    assert torch.equal(actual_grad, expected_grad)
    with torch.no_grad():
        lazy.mul_(2)
        assert torch.equal(lazy, expected * 2)


def test_rope_is_not_deferred_where_attention_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, cos = torch.randn(1, 4, 150, 32), torch.randn(1, 1, 150, 32)
    assert rope.can_defer(x, cos, cos)
    assert not rope.can_defer(x[:, :, :5], cos[:, :, :5], cos[:, :, :5])
    assert not rope.can_defer(x.expand(2, -1, -1, -1), cos, cos)
    assert not rope.can_defer(x, cos.double(), cos.double())
    monkeypatch.setattr(attention, "is_available", lambda *_: False)
    assert not rope.can_defer(x, cos, cos)
