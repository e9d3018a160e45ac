"""The GPU sizes in the headers of the shipped recipes, from the models' configs alone.

    python benchmarks/recipe_gpu_sizes.py            # print what every command needs
    python benchmarks/recipe_gpu_sizes.py --write    # write the sizes into the headers

No weights are loaded and no GPU is needed: models are built on the meta device, where a forward
pass has shapes and no values; with one and with two layers, which give the figures of all. A
variant needs

* its weights, 4-bit and 8-bit as bitsandbytes stores them,
* for each weight that is trained, float32 master weight, gradient and two moments of AdamW,
* activations: what a token's forward pass saves, measured on the meta device, times the tokens of
  a batch whose rows are all `prompt.max_length` long, by the plan that a training itself makes
  (`training.memory`: parts of a batch, then gradient checkpointing),
* the CUDA context, and a tenth of the GPU for fragmentation and temporary arrays.

The size is the smallest GPU on which every variant fits. A larger one trains faster where that
plan had to split batches or to compute activations twice.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prooftune import recipe as recipes
from prooftune.engine.model_parts import get_backbone
from prooftune.models import adapters
from prooftune.models.weight_sizes import quantized_bytes
from prooftune.recipe import Recipe, Variant, shipped_names
from prooftune.training.memory import OPTIMIZER_BYTES, RESERVE, SavedBytes, plan_memory

SIZES = (8, 12, 16, 24, 32, 40, 48, 80, 141)
"""Memory of GPUs on the market, in GB."""

MODELS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": {"model_type": "llama", "vocab_size": 32000},
    "meta-llama/Llama-2-7b-chat-hf": {"model_type": "llama", "vocab_size": 32000},
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
    },
    "google/gemma-2-2b-it": {"model_type": "gemma2"},
    "Qwen/Qwen2.5-1.5B": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536,
        "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Fields of each model's ``config.json`` that differ from the defaults of transformers, which are
Llama-2-7B's and Gemma-2-2B's."""

CONTEXT_BYTES = 0.8e9
"""CUDA context, cuBLAS workspaces and the kernels' code."""
MEASURED_TOKENS = 128
REMARK = re.compile(r"one GPU with \d+ GB( \(estimated\))?")
HEADER_FOLDER = Path(recipes.__file__).parents[1] / "recipes"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a variant needs whatever the batch, and what its training saves per token.

    Attributes:
        weights: the model's weights.
        states: master weights, gradients and moments of the weights that are trained.
        saved: None for a variant without training.
    """

    weights: float
    states: float
    saved: SavedBytes | None


class _NoAttention(torch.autograd.Function):
    """Saves what a fused attention kernel saves: its inputs, its output and a float32 per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        row_statistics = torch.empty(query.shape[:3], device=query.device, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, row_statistics)
        return output


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    output = _NoAttention.apply(query, key, value)
    return output.transpose(1, 2), None


def meta_model(name: str, head: bool, layers: int) -> nn.Module:
    """A model of `MODELS` without values, in 16 bits, with or without a classification head.

    Args:
        layers: number of layers in place of the model's own.
    """
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
    from transformers import AutoModelForSequenceClassification as WithHead

    AttentionInterface.register("saved-bytes", _attention)
    fields = {**MODELS[name], "num_hidden_layers": layers}
    if MODELS[name]["model_type"] == "gemma2":
        fields["layer_types"] = ["full_attention"] * layers
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model: nn.Module = (WithHead if head else AutoModelForCausalLM).from_config(
            config, dtype=torch.bfloat16, attn_implementation="saved-bytes"
        )
    return model


def weight_bytes(model: nn.Module, quantization: Mapping[str, Any] | None) -> float:
    """Bytes of the weights, as `weight_sizes.weight_bytes` counts those of a file."""
    per_weight = quantized_bytes(2, dict(quantization) if quantization else None)
    return sum(
        p.numel() * (per_weight if p.ndim == 2 and ".layers." in name else 2)
        for name, p in model.named_parameters()
    )


def saved_bytes(model: nn.Module) -> float:
    """Bytes that a token's forward pass through the backbone saves for the backward pass."""
    storages: dict[int, tuple[Any, int]] = {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:  # all addresses are 0 on the meta device
            # The storage is held, so that no other one takes its place in memory.
            storages[storage._cdata] = (storage, storage.nbytes())
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        ids = torch.zeros(1, MEASURED_TOKENS, dtype=torch.long)
        positions = torch.arange(MEASURED_TOKENS)[None]
        get_backbone(model)(input_ids=ids, position_ids=positions, use_cache=False)
    return sum(size for _, size in storages.values()) / MEASURED_TOKENS


def _figures(recipe: Recipe, variant: Variant, layers: int) -> Tensor:
    """Bytes of the weights, number of trained weights, and bytes saved per token."""
    from peft import get_peft_model

    full = variant.method == "full"
    model = meta_model(recipe.model.name, variant.objective == "head", layers)
    weights = weight_bytes(model, None if full else recipe.quantization)
    if variant.kind != "tuned" or variant.adapter:
        return torch.tensor([weights, 0, 0], dtype=torch.float64)
    if not full:
        options = adapters.lora_config(variant, {**recipe.lora, **variant.lora})
        model = get_peft_model(model, options, autocast_adapter_dtype=False)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # The float32 master weights of full fine-tuning take the place of the 16-bit ones.
    figures = [0 if full else weights, trainable, saved_bytes(model.train())]
    return torch.tensor(figures, dtype=torch.float64)


def need(recipe: Recipe, variant: Variant) -> Need:
    """What a variant with a language model needs."""
    from transformers import AutoConfig

    fields = dict(MODELS[recipe.model.name])
    config: Any = AutoConfig.for_model(fields.pop("model_type"), **fields)
    layers = int(config.num_hidden_layers)
    one, two = (_figures(recipe, variant, count) for count in (1, 2))
    weights, trainable, saved = (one + (layers - 1) * (two - one)).tolist()
    states = (4 + OPTIMIZER_BYTES) * trainable
    if not trainable:
        return Need(weights, 0.0, None)
    return Need(weights, states, SavedBytes(saved, config.hidden_size * 2, layers))


def fits(recipe: Recipe, variant: Variant, required: Need, gigabytes: float) -> bool:
    """Whether a variant fits into a GPU of this size."""
    free = (1 - RESERVE) * gigabytes * 1e9 - CONTEXT_BYTES - required.weights - required.states
    if required.saved is None:
        return free > 0
    options = {**recipe.training, **variant.training}
    batch = int(options.get("per_device_train_batch_size", 16))
    checkpointing = True if options.get("gradient_checkpointing") else None
    plan = plan_memory(
        required.saved,
        [recipe.prompt.max_length] * batch,
        0,
        batch,
        free,
        checkpointing=checkpointing,
    )
    return free > 0 and plan.fits


def gpu_size(name: str, overrides: list[str]) -> int:
    """GB of the smallest GPU on which all variants of the recipe fit, one after the other."""
    recipe, _ = recipes.load(name, overrides)
    smallest = 0
    for variant_name, variant in recipe.variants.items():
        if variant.uses_language_model:
            view = recipe.for_variant(variant_name)
            required = need(view, variant)
            smallest = max(
                smallest, next(size for size in SIZES if fits(view, variant, required, size))
            )
    return smallest


def gpu_commands(text: str) -> list[tuple[str, list[str]]]:
    """The header's lines with a command for a GPU, whole, and the overrides of each."""
    found = []
    for line in text.splitlines():
        match = re.match(r"#   prooftune run (.*)$", line)
        if match is None or "smollm2" in line:
            continue
        words = shlex.split(re.split(r"\s{2,}", match[1])[0])[1:]
        overrides = [
            value if option == "--set" else f"model={value}"
            for option, value in zip(words[::2], words[1::2], strict=True)
        ]
        found.append((line, overrides))
    return found


def with_sizes(name: str, text: str) -> str:
    """The recipe's text, with the size behind every command for a GPU."""
    if recipes.load(name)[0].model.name not in MODELS:
        return text
    for line, overrides in gpu_commands(text):
        command, *remark = re.split(r"\s{2,}(?=[^p\s])", line.removeprefix("#   "))
        size = f"one GPU with {gpu_size(name, overrides)} GB (estimated)"
        rest = REMARK.sub("", " ".join(remark)).strip(", ")
        column = len(line) - len(" ".join(remark)) if remark else len(line) + 3
        changed = f"#   {command}".ljust(column) + ", ".join(filter(None, (size, rest)))
        text = text.replace(line + "\n", changed + "\n", 1)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for name in shipped_names():
        path = HEADER_FOLDER / f"{name}.yaml"
        text = path.read_text("utf-8")
        changed = with_sizes(name, text)
        for line, _ in gpu_commands(changed):
            print(f"{name}: {line.lstrip('# ')}")
        if options.write and changed != text:
            path.write_text(changed, "utf-8")


if __name__ == "__main__":
    main()
