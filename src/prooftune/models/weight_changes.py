"""Weight change from fine-tuning, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prooftune.models.stored_tensors import StoredTensors
from prooftune.variant_details import LayerChange, WeightChanges

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


def adapter_weight_changes(model: nn.Module) -> WeightChanges:
    """Relative size and effective rank of each adapted layer's weight change.

    For a weight W and its change dW: ``relative_change`` is the Frobenius norm ratio |dW| / |W|,
    and ``effective_rank`` the exponential of the entropy of dW's normalised singular values (Roy
    and Vetterli, EUSIPCO 2007).
    """
    from peft.tuners.lora import LoraLayer

    layers = []
    change = total = 0.0
    for name, module in model.named_modules():
        if (
            not isinstance(module, LoraLayer)
            or "default" not in module.lora_A
            or not hasattr(module, "get_delta_weight")
        ):
            continue
        weight = base_weight(module.get_base_layer()).float()
        layer: Any = module
        singular, size = _adapter_spectrum(layer, weight)
        layers.append(
            _entry(_short(name), size, weight.norm().item(), singular, int(layer.r["default"]))
        )
        change, total = change + size**2, total + weight.norm().item() ** 2
    return {"layers": layers, "relative_change_total": (change / total) ** 0.5 if total else 0.0}


def full_weight_changes(before: Path, after: nn.Module) -> WeightChanges:
    """`adapter_weight_changes` for full fine-tuning.

    Embeddings and vectors (norms, biases) are left out. The untuned weights are read one matrix at
    a time, so that no second model is in memory.

    Args:
        before: folder of the untuned model.
        after: the tuned model.
    """
    layers = []
    change = total = 0.0
    with StoredTensors(before) as stored:
        for name, parameter in after.named_parameters():
            if name not in stored or parameter.dim() != 2 or "embed" in name:
                continue
            weight = stored.read(name).to(parameter.device).float()
            delta = parameter.detach().float() - weight
            size = delta.norm().item()
            layers.append(
                _entry(
                    _short(name.removesuffix(".weight")),
                    size,
                    weight.norm().item(),
                    _singular(delta),
                    min(delta.shape),
                )
            )
            change, total = change + size**2, total + weight.norm().item() ** 2
    return {"layers": layers, "relative_change_total": (change / total) ** 0.5 if total else 0.0}


def base_weight(layer: nn.Module) -> Tensor:
    """A linear layer's weight [out, in], dequantised if it is quantised."""
    linear: Any = layer
    weight = linear.weight
    # By name, since bitsandbytes need not be installed.
    type_name = type(weight).__name__
    dense: Tensor = weight.detach()
    if type_name == "Params4bit":
        import bitsandbytes

        dense = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    elif type_name == "Int8Params":
        # Each row is stored divided by its largest magnitude, times 127 (LLM.int8, arXiv
        # 2208.07339). bitsandbytes moves these scales to the layer's state at the first forward
        # pass.
        scales = weight.SCB if weight.SCB is not None else linear.state.SCB
        dense = weight.data.float() * scales[:, None] / 127.0
    return dense


def _adapter_spectrum(layer: LoraLayer, weight: Tensor) -> tuple[Tensor, float]:
    """Singular values and Frobenius norm of an adapter's weight change.

    For LoRA the full matrix BA is never formed.
    """
    a, b = (
        layer.lora_A["default"].weight.detach().float(),
        layer.lora_B["default"].weight.detach().float(),
    )
    scale = float(layer.scaling["default"])
    if layer.use_dora.get("default"):
        # DoRA: W' = m (W + dV) / |W + dV|, norms taken over each output row (arXiv 2402.09353).
        updated = weight + scale * (b @ a)
        magnitude = layer.lora_magnitude_vector["default"].weight.detach().float()
        delta = magnitude[:, None] * updated / updated.norm(dim=1, keepdim=True) - weight
        return _singular(delta), delta.norm().item()
    # The singular values of BA are those of the small matrix R_b R_a^T of the two QR
    # decompositions.
    singular = torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T) * scale
    return singular, singular.norm().item()


def _singular(delta: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(delta)
    return values


def _entry(name: str, size: float, weight: float, singular: Tensor, rank: int) -> LayerChange:
    total = singular.sum()
    effective = 0.0
    if total > 0:
        p = singular / total
        # 0 · log 0 is 0 in an entropy, but NaN in floating point.
        p = p[p > 0]
        effective = float(torch.exp(-(p * p.log()).sum()))
    return {
        "name": name,
        "relative_change": size / weight if weight else 0.0,
        "effective_rank": effective,
        "rank": rank,
    }


def _short(name: str) -> str:
    """``base_model.model.model.layers.3.self_attn.q_proj`` -> ``layers.3.self_attn.q_proj``."""
    start = name.find("layers.")
    return name[start:] if start >= 0 else name
