"""What a reader needs to repeat the numbers: versions, processor, device, dtype, and the weights'
digest."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from prooftune.recipe import Recipe
from prooftune.utils.files import read_json


def describe_environment(recipe: Recipe) -> dict[str, Any]:
    """Facts by name, JSON-ready."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "threads": os.cpu_count(),
    }
    for package in ("torch", "transformers", "peft", "scikit-learn"):
        facts[package] = metadata.version(package)
    if recipe.uses_language_model:
        from prooftune.models import loading

        folder = loading.resolve(recipe.model.name, recipe.model.revision)
        settings = compute_settings(recipe)
        facts |= {
            **settings,
            "compiled_code": _compiled(settings, folder),
            "model": recipe.model.name,
            "model_sha256": loading.weights_digest(folder),
        }
    return facts


def compute_settings(recipe: Recipe) -> dict[str, str]:
    """How a model is computed here: ``device``, ``dtype``, ``attention``, and ``frozen_products``,
    the dtype of products with frozen weights while adapters learn."""
    from prooftune.engine.kernels import int8_linear
    from prooftune.models import loading

    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    device, dtype = (
        str(loading.device()),
        str(loading.compute_dtype(recipe.model.dtype)).removeprefix("torch."),
    )
    in_int8 = (
        recipe.model.int8_training
        and not recipe.quantization
        and device == "cpu"
        and dtype == "bfloat16"
    )
    return {
        "device": device,
        "dtype": dtype,
        "attention": loading.attention_implementation(recipe.model.attention, folder),
        "frozen_products": "int8" if in_int8 and int8_linear.is_available() else dtype,
    }


def _compiled(settings: dict[str, str], folder: Path) -> str:
    """What is computed by compiled code where the model in a folder learns."""
    if settings["device"] != "cpu" or settings["dtype"] != "bfloat16":
        return "none"
    from prooftune.engine.attention import shared_prefix
    from prooftune.engine.kernels import attention, pointwise

    config = read_json(folder / "config.json")
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    lines = settings["attention"] == shared_prefix.NAME and not config.get("attn_logit_softcapping")
    used = {
        "attention": lines and attention.is_available(size),
        "pointwise": pointwise.is_available(),
    }
    return ", ".join(name for name, one in used.items() if one) or "none"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
