"""The merged model with 8- or 4-bit weights (bitsandbytes), in the Hugging Face layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prooftune.bundle.manifest import Manifest
from prooftune.exporters import merged
from prooftune.models import loading

_HEADS = ["lm_head", "score"]
"""Unquantized layers: output layers affect the predictions directly, and are small or tied."""


def write_int8(bundle: Path, manifest: Manifest, out: Path) -> None:
    """LLM.int8() (arXiv 2208.07339)."""
    _write(bundle, manifest, out, {"load_in_8bit": True, "llm_int8_skip_modules": _HEADS})


def write_int4(bundle: Path, manifest: Manifest, out: Path) -> None:
    """NF4 (arXiv 2305.14314)."""
    _write(
        bundle,
        manifest,
        out,
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": _HEADS},
    )


def _write(bundle: Path, manifest: Manifest, out: Path, options: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    # First of all: it raises where bitsandbytes is missing.
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
