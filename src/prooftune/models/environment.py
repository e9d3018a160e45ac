"""The environment of a run, for reproducibility: versions, CPU, device, dtype, weights' digest."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from prooftune.recipe import Recipe
from prooftune.utils.files import read_json


def describe_environment(recipes: Iterable[Recipe]) -> dict[str, Any]:
    """Python, platform, library versions, and how the base models are computed. JSON-ready.

    Args:
        recipes: for each base model, the recipe of a variant that has it (`Recipe.base_models`).
            The facts of the first are at the top, and with several all are under ``models``.
    """
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "threads": os.cpu_count(),
    }
    for package in ("torch", "transformers", "peft", "scikit-learn"):
        facts[package] = metadata.version(package)
    models = [_describe_model(recipe) for recipe in recipes]
    if models:
        facts |= models[0]
    if len(models) > 1:
        facts["models"] = models
    return facts


def _describe_model(recipe: Recipe) -> dict[str, Any]:
    """A base model's name and digest, and how it is computed."""
    from prooftune.engine.attention import flex, shared_prefix
    from prooftune.engine.attention.flex_trial import failed_trials
    from prooftune.models import loading

    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    settings = compute_settings(recipe)
    if settings["attention"] == flex.NAME and failed_trials:
        settings["attention"] = shared_prefix.NAME
    return {
        **settings,
        "compiled_code": compiled_kernels(settings, folder),
        "model": recipe.model.name,
        "model_sha256": loading.weights_digest(folder),
    }


def compute_settings(recipe: Recipe) -> dict[str, str]:
    """How the model is computed on this machine.

    Returns:
        ``device``, ``dtype``, ``attention``, and ``frozen_products``: the dtype of matmuls with
        frozen weights in training.
    """
    from prooftune.engine.kernels import int8_linear
    from prooftune.models import loading

    folder = loading.resolve(recipe.model.name, recipe.model.revision)
    device, dtype = device_and_dtype(recipe.model.dtype).values()
    int8_training = (
        recipe.model.int8_training
        and not recipe.quantization
        and device == "cpu"
        and dtype == "bfloat16"
    )
    return {
        "device": device,
        "dtype": dtype,
        "attention": loading.attention_implementation(recipe.model.attention, folder),
        "frozen_products": "int8" if int8_training and int8_linear.is_available() else dtype,
    }


def device_and_dtype(dtype: str = "auto") -> dict[str, str]:
    """``device`` and ``dtype`` of matmuls on this machine.

    Args:
        dtype: ``model.dtype`` of a recipe.
    """
    from prooftune.models import loading

    return {
        "device": str(loading.device()),
        "dtype": str(loading.compute_dtype(dtype)).removeprefix("torch."),
    }


def compiled_kernels(settings: dict[str, str], folder: Path) -> str:
    """Names of the compiled kernels that training this model uses, or "none"."""
    if settings["device"] != "cpu":
        return "none"
    import torch

    from prooftune.engine.attention import shared_prefix
    from prooftune.engine.kernels import attention, pointwise

    dtype = getattr(torch, settings["dtype"])
    config = read_json(folder / "config.json")
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    # Soft-capped scores (Gemma 2) have no compiled kernel.
    packed = settings["attention"] == shared_prefix.NAME and not config.get(
        "attn_logit_softcapping"
    )
    used = {
        "attention": packed and attention.is_available(head_size, dtype),
        "pointwise": pointwise.is_available(dtype),
    }
    return ", ".join(name for name, is_used in used.items() if is_used) or "none"


def cpu_name() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    # There is no /proc outside Linux, and ARM kernels list no model name there.
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
