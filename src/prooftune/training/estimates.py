"""How long the variants will take and how much memory they need, before anything is trained.

Time is arithmetic work divided by what this machine was just measured to do; memory is what must be held
at once. The constants are fitted to runs of the embedded model on two cores; the run records the real figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prooftune.files import read_json

_EFFICIENCY = {"train": 0.30, "score": 0.40}
"""Share of the measured matrix-product rate that small batches on few cores reach."""
_ACTIVATIONS = 50
"""Values of the model's dtype kept per token, layer and unit of hidden size for the backward pass, attention included."""
_LIBRARIES = 0.6e9
"""Resident bytes of torch, transformers and Python before any model is loaded (measured)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that decide its cost, read from its config."""

    layers: int
    hidden: int
    vocabulary: int
    parameters: int
    embedding: int

    @property
    def products(self) -> int:
        """Weights that take part in a matrix product for every token."""
        return self.parameters - self.embedding


@dataclass(frozen=True, slots=True)
class Estimate:
    seconds: float
    memory_bytes: float


def shape_of(folder: Path) -> Shape:
    """Read a model's sizes from its config and the headers of its weight files; no weights are loaded."""
    from safetensors import safe_open

    config: dict[str, Any] = read_json(folder / "config.json")
    config = config.get("text_config", config)
    parameters = embedding = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dictionary
                size = int(torch.Size(weights.get_slice(name).get_shape()).numel())
                parameters += size
                embedding += size if "embed" in name or "lm_head" in name else 0
    return Shape(config["num_hidden_layers"], config["hidden_size"], config["vocab_size"], parameters, embedding)


def measured_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Multiply-add operations per second (counted as 2 FLOP) of a square product in the model's dtype, in about 0.2 s."""
    size = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def scoring(shape: Shape, tokens: int, rate: float, dtype: torch.dtype) -> Estimate:
    """Time and memory to score `tokens` tokens (shared prefixes not counted)."""
    seconds = 2 * shape.products * tokens / (rate * _EFFICIENCY["score"])
    return Estimate(seconds, _LIBRARIES + shape.parameters * dtype.itemsize + 4096 * shape.hidden * 40 * dtype.itemsize)


def training(
    shape: Shape, tokens: float, batch_tokens: int, trainable: int, rate: float, dtype: torch.dtype, *,
    full: bool, checkpointing: bool,
) -> Estimate:
    """Time and memory to train on `tokens` tokens in batches of `batch_tokens`.

    LoRA needs the forward pass and the gradients of activations, 4 FLOP per weight and token; full
    fine-tuning the gradients of weights too, 6.
    """
    operations = (6 if full else 4) * shape.products * tokens
    seconds = operations / (rate * _EFFICIENCY["train"])
    kept = 2 if checkpointing else _ACTIVATIONS
    activations = kept * batch_tokens * shape.layers * shape.hidden * dtype.itemsize
    weights = shape.parameters * (4 if full else dtype.itemsize)
    # Master weights, gradient and Adam's two moments, 4 bytes each; a full model's weights are its master weights.
    optimizer = trainable * 4 * (3 if full else 4)
    return Estimate(seconds, _LIBRARIES + weights + optimizer + activations)


def adapter_parameters(folder: Path, lora: dict[str, Any]) -> int:
    """Trainable weights of LoRA on the linear layers named by `lora`."""
    from safetensors import safe_open

    rank, targets = int(lora.get("r", 16)), lora.get("target_modules", "all-linear")
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dictionary
                size = weights.get_slice(name).get_shape()
                linear = len(size) == 2 and "layers." in name
                named = targets == "all-linear" or any(name.split(".")[-2] == t for t in targets)
                count += rank * (size[0] + size[1]) if linear and named else 0
    return count
