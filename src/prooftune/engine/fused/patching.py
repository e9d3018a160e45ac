"""Fused layers: replacements for a model's own layers with fewer passes over memory.

On a CPU, a small model spends a third of its time reading and writing arrays between two matmuls.
Here LoRA layers that read the same input are computed together (`lora`); a gated MLP
(`gated_mlp`) and the attention of a packed batch (`packed_attention`) are one autograd function; an
RMSNorm saves no further array (`rms_norm`), and takes the residual addition before it into its pass
(`decoder_layer`); RoPE runs in attention's passes (`rope`); in inference, weights are prepacked
(`prepacked_weights`). The arithmetic is the same but for fewer roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from prooftune.engine.fused import gated_mlp, packed_attention
from prooftune.engine.fused.decoder_layer import decoder_layer_forwards
from prooftune.engine.fused.lora import FusedLoraGroup, computes_in
from prooftune.engine.fused.prepacked_weights import (
    PrepackedWeight,
    can_prepack,
    prepack_weights,
    prepacking_enabled,
)
from prooftune.engine.fused.quantized_weights import adapter_types
from prooftune.engine.fused.rms_norm import rms_norm_forwards
from prooftune.engine.fused.rope import patch_rope_inplace

SAME_INPUT = (packed_attention.PROJECTIONS[0], gated_mlp.LAYERS[0])
"""Children of one module that are called on the same input."""


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Use fused layers for the duration of the block, wherever they compute the same.

    A layer that they do not support when it is called (several adapters, dropout, DoRA, a merged or
    disabled adapter, a bias, another dtype) runs its own code.
    """
    # Weights may have moved to another device or dtype since the model was first searched.
    if model not in _PATCHES or not all(map(can_prepack, _PATCHES[model].prepacked)):
        _PATCHES[model] = PatchedModules(model)
    patches = _PATCHES[model]
    replaced = [
        (vars(module), forward)
        for module, forward in patches.forwards
        # Nested use: an instance attribute is an active replacement.
        if "forward" not in vars(module)
    ]
    # Merging and unmerging adapters between two uses changes weights.
    for layer, packed in patches.prepacked.items():
        packed.invalidate_if_changed(layer.weight)
    # On the instances and not on the class, so that other models do not change.
    for attributes, forward in replaced:
        attributes["forward"] = forward
    try:
        with patch_rope_inplace(model):
            yield
    finally:
        for attributes, _ in replaced:
            del attributes["forward"]


class PatchedModules:
    """The replacements for a model, searched once: that takes longer than a short answer.

    Attributes:
        prepacked: layers whose weights are prepacked, and the copies.
        forwards: modules and their replaced forward.
    """

    def __init__(self, model: nn.Module) -> None:
        self.prepacked = prepack_weights(model)
        norms = dict(rms_norm_forwards(model))
        self.forwards = [
            *_replacements(model, self.prepacked),
            *norms.items(),
            *decoder_layer_forwards(model, norms),
        ]


_PATCHES: WeakKeyDictionary[nn.Module, PatchedModules] = WeakKeyDictionary()


def _replacements(
    model: nn.Module, prepacked: Mapping[nn.Linear, PrepackedWeight]
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    from peft.tuners.lora.layer import Linear as LoraLinear

    adapted = (LoraLinear, *adapter_types())
    for module in model.modules():
        children = dict(module.named_children())
        lora = {name: child for name, child in children.items() if isinstance(child, adapted)}
        together = [
            *SAME_INPUT,
            *((name,) for name in lora if not any(name in names for names in SAME_INPUT)),
        ]
        groups = {
            names: FusedLoraGroup([lora[name] for name in names if name in lora], prepacked)
            for names in together
        }
        for group in groups.values():
            yield from zip(cast(list[nn.Module], group.layers), group.forwards, strict=True)
        # The base layer of a LoRA layer is computed with its adapter, or by its own code.
        if not isinstance(module, adapted):
            yield from (
                (child, _prepacked_forward(child, prepacked[child]))
                for child in children.values()
                if isinstance(child, nn.Linear) and child in prepacked
            )
        # Other gated MLPs (Gemma: GELU) run their own code.
        if {"gate_proj", "up_proj", "down_proj"} <= set(children) and isinstance(
            children.get("act_fn"), _silu_types()
        ):
            mlp_groups = [groups[names] for names in gated_mlp.LAYERS if names in groups]
            yield module, gated_mlp.gated_mlp_forward(cast(gated_mlp.GatedMLP, module), mlp_groups)
        if all(names in groups for names in packed_attention.PROJECTIONS):
            projections = [groups[names] for names in packed_attention.PROJECTIONS]
            if forward := packed_attention.packed_attention_forward(module, projections):
                yield module, forward


def _prepacked_forward(layer: nn.Linear, packed: PrepackedWeight) -> Callable[..., Any]:
    original = type(layer).forward

    def forward(x: Tensor) -> Tensor:
        weight = layer.weight
        if (
            not prepacking_enabled()
            or x.dtype != weight.dtype
            or not computes_in(x.dtype, x.device.type)
        ):
            return original(layer, x)
        return packed.matmul(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))

    return forward


def _silu_types() -> tuple[type, ...]:
    from transformers.activations import ACT2CLS

    activation = ACT2CLS["silu"]
    return nn.SiLU, activation[0] if isinstance(activation, tuple) else activation
