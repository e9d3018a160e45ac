"""Memory of a training: what is saved, and what is chosen from it, without changing results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prooftune import recipe
from prooftune.engine.attention import backends, shared_prefix
from prooftune.engine.forward import packed_hidden_states
from prooftune.engine.fused.patching import fused
from prooftune.engine.model_parts import get_backbone
from prooftune.engine.packing import pack_sequences
from prooftune.engine.precision import disable_lora_input_upcast
from prooftune.models import adapters
from prooftune.training import memory
from prooftune.training.memory import SavedBytes, count_saved_bytes, plan_memory
from prooftune.training.objective import TuningModule
from prooftune.training.sampler import LengthGroupedBatchSampler
from prooftune.training.trainer import train
from training.tiny import BFLOAT16, arguments, setup

KIB = 1024
SAVED = SavedBytes(layers=32 * 160 * KIB, layer_input=8 * KIB, num_layers=32)  # Llama-2-7B


def test_saved_arrays_are_counted_once_and_weights_not_at_all() -> None:
    layer = nn.Linear(4, 3)
    x = torch.ones(2, 4, requires_grad=True)
    with count_saved_bytes(layer) as saved:
        out = layer(x).exp()  # saves x for the weight's gradient, and the exponential itself
        (out * out).sum()  # saves the same array twice
    assert saved == [2 * 4 * 4 + 2 * 3 * 4]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        # 16 rows of 512 tokens keep 49 GB without checkpointing, 2.3 GB with it.
        (80e9, (False, 1)),
        (40e9, (False, 2)),
        (14e9, (False, 4)),  # of 2,048 tokens
        (11e9, (True, 1)),
        (1.4e9, (True, 4)),
    ],
)
def test_the_fastest_plan_that_fits_is_chosen(free: float, expected: tuple[bool, int]) -> None:
    plan = plan_memory(SAVED, [512] * 100, 0, 16, free)
    assert (plan.checkpointing, plan.micro_batches) == expected
    assert plan.fits and plan.bytes <= 0.9 * free


def test_what_the_recipe_says_about_checkpointing_holds() -> None:
    off = plan_memory(SAVED, [512] * 100, 0, 16, 11e9, checkpointing=False)
    assert not off.checkpointing and off.micro_batches == 6 and off.fits
    on = plan_memory(SAVED, [512] * 100, 0, 16, 80e9, checkpointing=True)
    assert on.checkpointing and on.micro_batches == 1
    nothing = plan_memory(SAVED, [512] * 100, 0, 16, 0)
    assert nothing.checkpointing and nothing.micro_batches == 16 and not nothing.fits
    # A prefix is computed with every part; a batch larger than the data has no empty parts.
    assert plan_memory(SAVED, [10], 4000, 16, 0).micro_batches == 1


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 9),
    parts=st.integers(1, 9),
    ranks=st.integers(1, 3),
    strategy=st.sampled_from(["group_by_length", "random", "sequential"]),
    drop_last=st.booleans(),
)
def test_micro_batches_hold_the_rows_of_their_batch(
    count: int, batch: int, parts: int, ranks: int, strategy: str, drop_last: bool
) -> None:
    parts = min(parts, batch)
    lengths = [(7 * i) % 13 + 1 for i in range(count)]

    def batches(rank: int, parts: int) -> tuple[list[list[int]], int]:
        sampler = LengthGroupedBatchSampler(
            lengths, batch, 3, strategy, rank, ranks, drop_last, parts
        )
        return list(sampler), len(sampler)

    for rank in range(ranks):
        whole, _ = batches(rank, 1)
        split, announced = batches(rank, parts)
        assert len(split) == announced
        # Windows of `parts` micro-batches are the batches; the last one may have fewer.
        windows = [split[i : i + parts] for i in range(0, len(split), parts)]
        assert [[row for part in window for row in part] for window in windows] == whole
        largest = max((len(part) for part in split), default=0)
        assert largest <= -(-batch // parts) or ranks > 1


def first_attention(module: TuningModule) -> nn.Module:
    """The first layer's attention. Hooks on the layer itself stay outside of checkpointing."""
    backbone: Any = get_backbone(module.model)
    attention: nn.Module = backbone.layers[0].self_attn
    return attention


def counted_passes(module: nn.Module) -> list[None]:
    """An element for every forward pass of the module from now on."""
    passes: list[None] = []
    module.register_forward_pre_hook(lambda *_: passes.append(None))
    return passes


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["instruction", "head"])
def test_a_plan_changes_no_result(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Memory for a few rows at a time, with checkpointing; the recipe's own accumulation holds."""
    states, logs = [], []
    plans: list[memory.MemoryPlan] = []
    original = memory.plan_memory

    def plan(*args: Any, **options: Any) -> memory.MemoryPlan:
        plans.append(original(*args, **options))
        return plans[-1]

    monkeypatch.setattr(memory, "plan_memory", plan)
    for name, free in (("whole", None), ("split", 150_000.0)):
        monkeypatch.setattr(memory, "free_bytes", lambda *_, free=free: free)
        module, rows, encoder = setup(model_folders["llama"], objective)
        passes, layer_passes = counted_passes(module), counted_passes(first_attention(module))
        options = arguments(
            tmp_path / name,
            optim="sgd",
            save_strategy="no",
            per_device_train_batch_size=5,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            logging_steps=1,
        )
        log = train(module, rows, [], encoder.prefix, options)
        states.append(module.trainable_state())
        logs.append([entry["loss"] for entry in log if "loss" in entry])
        assert options.gradient_accumulation_steps == 2
        # Checkpointing computes every layer again in the backward pass, which the pass that
        # measures what is saved does not have.
        recomputed = len(passes) - 1 if name == "split" else 0
        assert len(layer_passes) == len(passes) + recomputed
    (chosen,) = plans
    assert chosen.checkpointing and chosen.micro_batches > 1
    assert len(logs[0]) == len(logs[1]) == 6  # 24 rows: two windows of 10 rows and one of 4
    assert logs[0] == pytest.approx(logs[1], abs=2e-5)
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-4)


def test_layers_with_dropout_are_measured_under_autocast(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run peft's own code, whose float32 adapters need autocast beside 16-bit activations."""
    monkeypatch.setattr(memory, "free_bytes", lambda *_: 1e9)
    module, rows, encoder = setup(model_folders["llama"], options=BFLOAT16)
    layers: list[Any] = list(module.modules())
    for layer in layers:
        if hasattr(layer, "lora_dropout"):
            layer.lora_dropout["default"] = nn.Dropout(0.1)
    options = arguments(tmp_path, max_steps=1, bf16=True, save_strategy="no", logging_steps=1)
    log = train(module, rows, [], encoder.prefix, options)
    assert log[0]["loss"] > 0


def saved_per_token(model: Any, ours: bool, checkpointing: bool = False) -> float:
    """Bytes that the layer saves for each of 64 tokens, under autocast to bfloat16."""
    tokens = 64
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    backbone = get_backbone(model.train())
    ids = list(range(tokens))
    with torch.autocast("cpu", torch.bfloat16), count_saved_bytes(model) as saved:
        if ours:
            disable_lora_input_upcast(model)
            with fused(model):
                # No logits: they come after the layers.
                packed_hidden_states(backbone, pack_sequences([], [ids[:32], ids[32:]], [[31]] * 2))
        else:
            backbone(input_ids=torch.tensor([ids]), use_cache=False)
    return saved[0] / tokens


def quantize_layers(model: Any) -> None:
    """Hold the layers' weights in 4 bits, as `load_in_4bit: true` does."""
    import bitsandbytes

    for module in list(model.model.layers.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                kwargs = {"compute_dtype": torch.bfloat16, "quant_type": "nf4"}
                held = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=False, device="meta", **kwargs
                )
                weight = layer.weight.data
                held.weight = bitsandbytes.nn.Params4bit(weight, False, quant_type="nf4").to("cpu")
                setattr(module, name, held)
    model.is_loaded_in_4bit = True


def llama_2_7b(attention: str, layers: int = 1, four_bits: bool = False) -> Any:
    """One layer of true width, 400 MB in bfloat16."""
    backends.register()
    config = LlamaConfig(vocab_size=64, num_hidden_layers=layers)
    assert (config.hidden_size, config.intermediate_size) == (4096, 11008)
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    # Values do not matter, and drawing them would take seconds.
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.zeros_(parameter) if parameter.dim() > 1 else nn.init.ones_(parameter)
    model.model.rotary_emb.inv_freq = 1 / 10000 ** (torch.arange(0, 128, 2) / 128)
    if four_bits:
        quantize_layers(model)
    return adapters.make_trainable(model, recipe.Variant(kind="tuned"), {"r": 16})


@pytest.mark.slow
@pytest.mark.parametrize("four_bits", [False, True], ids=["bfloat16", "nf4"])
def test_saved_bytes_at_the_width_of_7b(four_bits: bool) -> None:
    """At most 60% of plain PEFT's for every token and layer, and 8 KiB with checkpointing."""
    if four_bits:
        pytest.importorskip("bitsandbytes")

    def per_layer(attention: str, **options: bool) -> float:
        # The last layer saves less, because it is computed at a few positions only.
        one, two = (saved_per_token(llama_2_7b(attention, n, four_bits), **options) for n in (1, 2))
        return two - one

    plain = per_layer("sdpa", ours=False)
    ours = per_layer(shared_prefix.NAME, ours=True)
    checkpointed = per_layer(shared_prefix.NAME, ours=True, checkpointing=True)
    print(f"KiB per token and layer: PEFT {plain / KIB:.0f}, ours {ours / KIB:.0f}, "
          f"checkpointing {checkpointed / KIB:.1f}")  # fmt: skip
    assert ours <= 0.6 * plain
    assert checkpointed <= 8 * KIB
