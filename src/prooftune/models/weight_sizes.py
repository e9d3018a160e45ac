"""The size of a model's weights, from the headers of its weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prooftune.models.weight_files import open_weights
from prooftune.utils.files import read_json
from prooftune.utils.profiling import available_memory


def fits_in_float32(folder: Path) -> bool:
    """Whether the weights in float32 take at most half of the free memory; False if quantised."""
    if "quantization_config" in read_json(folder / "config.json"):
        return False
    free = available_memory()
    return free is None or 4 * count_parameters(folder) <= free / 2


def count_parameters(folder: Path) -> int:
    """Number of parameters of a model folder, from the headers of its weight files."""
    import torch

    count = 0
    for file in folder.glob("*.safetensors"):
        with open_weights(file) as weights:
            names = weights.keys()
            count += sum(torch.Size(weights.get_slice(name).get_shape()).numel() for name in names)
    return count


def layer_widths(folder: Path) -> set[int]:
    """Numbers of inputs of a model's layers, from the headers of its weight files."""
    widths = set()
    for file in folder.glob("*.safetensors"):
        with open_weights(file) as weights:
            for name in weights.keys():  # noqa: SIM118
                shape = weights.get_slice(name).get_shape()
                if len(shape) == 2 and ".layers." in name:
                    widths.add(int(shape[1]))
    return widths


def quantized_bytes(itemsize: int, quantization: dict[str, Any] | None) -> float:
    """Bytes per weight of a layer's matrices.

    Args:
        itemsize: bytes of a weight that is not quantised.
        quantization: `BitsAndBytesConfig` fields.
    """
    options = quantization or {}
    if options.get("load_in_4bit"):
        # nf4 with doubly quantised scales takes 4.127 bits (arXiv 2305.14314).
        return 4.5 / 8 if options.get("bnb_4bit_use_double_quant") is False else 4.127 / 8
    return 1.0 if options.get("load_in_8bit") else float(itemsize)  # int8 has a scale per row


def weight_bytes(folder: Path, itemsize: int, quantization: dict[str, Any] | None = None) -> int:
    """Bytes of a model's weights in memory, from the headers of its weight files.

    Args:
        folder: the model folder.
        itemsize: bytes of a weight that is not quantised.
        quantization: `BitsAndBytesConfig` fields. They apply to the matrices of the layers, not to
            the embedding, the output head and the norms.
    """
    import torch

    quantized = quantized_bytes(itemsize, quantization)
    total = 0.0
    for file in folder.glob("*.safetensors"):
        with open_weights(file) as weights:
            for name in weights.keys():  # noqa: SIM118
                shape = torch.Size(weights.get_slice(name).get_shape())
                in_layer = len(shape) == 2 and ".layers." in name
                total += shape.numel() * (quantized if in_layer else itemsize)
    return int(total)
