"""The merged model with 8- or 4-bit weights (bitsandbytes), in the Hugging Face layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prooftune.bundle.base_model import base_model_folder
from prooftune.bundle.layout import weights_folder
from prooftune.bundle.manifest import Manifest
from prooftune.errors import UsageError
from prooftune.exporters import merged
from prooftune.models import loading
from prooftune.models.weight_sizes import layer_widths

_HEADS = ["lm_head", "score"]
"""Unquantized layers: output layers affect the predictions directly, and are small or tied."""


_NF4_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats, by default."""


OPTIONS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True, "llm_int8_skip_modules": _HEADS},
    "int4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "llm_int8_skip_modules": _HEADS,
    },
}
"""Format -> `BitsAndBytesConfig` fields."""


def write_int8(bundle: Path, manifest: Manifest, out: Path) -> None:
    """LLM.int8() (arXiv 2208.07339)."""
    _write(bundle, manifest, out, OPTIONS["int8"])


def write_int4(bundle: Path, manifest: Manifest, out: Path) -> None:
    """NF4 (arXiv 2305.14314)."""
    _write(bundle, manifest, out, OPTIONS["int4"])


def check_library(to: str) -> None:
    """Check that bitsandbytes is here, before anything is written.

    Raises:
        UsageError: it is not installed.
    """
    loading.quantization_config(OPTIONS[to])


def check_int4(bundle: Path, manifest: Manifest) -> None:
    """Refuse models whose 4-bit layers this machine cannot compute.

    Raises:
        UsageError: bitsandbytes quantizes 64 weights together, and its kernel for CPUs takes rows
            of whole blocks only.
    """
    import torch

    if torch.cuda.is_available():
        return
    whole_model = manifest["part"] == "model"
    folder = weights_folder(bundle, manifest) if whole_model else base_model_folder(manifest)
    if partial := sorted(w for w in layer_widths(folder) if w % _NF4_BLOCK):
        raise UsageError(
            f"--to int4: layers with {', '.join(map(str, partial))} inputs do not work in 4 bits "
            f"on a CPU, where bitsandbytes takes multiples of {_NF4_BLOCK}; export int8 or merged, "
            "or use a machine with a CUDA GPU"
        )


def _write(bundle: Path, manifest: Manifest, out: Path, options: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = loading.quantization_config(options)
    merged_folder = out / "merged"
    merged.write(bundle, manifest, merged_folder)
    model_class = (
        AutoModelForSequenceClassification
        if manifest["objective"] == "head"
        else AutoModelForCausalLM
    )
    # bitsandbytes quantizes while it loads, so the merged model has to be on disk.
    model_class.from_pretrained(
        merged_folder, quantization_config=settings, dtype="auto"
    ).save_pretrained(out)
    # What `save_pretrained` of a model does not write: the tokenizer's files.
    for path in merged_folder.iterdir():
        if path.suffix != ".safetensors" and not (out / path.name).exists():
            shutil.move(path, out / path.name)
    shutil.rmtree(merged_folder)
