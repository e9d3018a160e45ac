"""What tuning changed in the weights, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def adapter_weight_changes(model: nn.Module) -> dict[str, Any]:
    """Size and effective rank of each adapted layer's weight change.

    For a weight W and its change dW: ``relative_change`` is the Frobenius norm ratio |dW| / |W|,
    and ``effective_rank`` the exponential of the entropy of dW's normalised singular values (Roy
    and Vetterli, EUSIPCO 2007).

    Returns:
        ``{"layers": [{name, relative_change, effective_rank, rank}], "relative_change_total"}``.
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


def full_weight_changes(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """The same figures for two whole models with the same parameter names (full fine-tuning)."""
    old = dict(before.named_parameters())
    layers = []
    change = total = 0.0
    for name, parameter in after.named_parameters():
        if name not in old or parameter.dim() != 2 or "embed" in name:
            continue
        weight = old[name].detach().float()
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
    """A linear layer's weight, dequantised where it is quantised."""
    whole: Any = layer
    weight = whole.weight
    kind = type(weight).__name__
    plain: Tensor = weight.detach()
    if kind == "Params4bit":
        import bitsandbytes

        plain = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    elif kind == "Int8Params":
        scales = weight.SCB if weight.SCB is not None else whole.state.SCB
        plain = weight.data.float() * scales[:, None] / 127.0
    return plain


def _adapter_spectrum(layer: Any, weight: Tensor) -> tuple[Tensor, float]:
    """Singular values and norm of an adapter's change, without forming the product where that is
    possible."""
    a, b = (
        layer.lora_A["default"].weight.detach().float(),
        layer.lora_B["default"].weight.detach().float(),
    )
    scale = float(layer.scaling["default"])
    if layer.use_dora.get("default"):
        # DoRA: W' = m (W + dV) / |W + dV|, norms taken over each output row (arXiv 2402.09353).
        moved = weight + scale * (b @ a)
        magnitude = layer.lora_magnitude_vector["default"].weight.detach().float()
        delta = magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True) - weight
        return _singular(delta), delta.norm().item()
    # The singular values of BA are those of the small matrix R_b R_a^T of the two QR
    # decompositions.
    singular = torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T) * scale
    return singular, singular.norm().item()


def _singular(delta: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(delta)
    return values


def _entry(name: str, size: float, weight: float, singular: Tensor, rank: int) -> dict[str, Any]:
    total = singular.sum()
    effective = 0.0
    if total > 0:
        p = singular / total
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
