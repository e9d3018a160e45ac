"""Models to train: the base model, or one that another variant of the study has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from prooftune.models import adapters, loading
from prooftune.recipe import Variant
from prooftune.run_folder import training_folder
from prooftune.variants.context import VariantContext
from prooftune.variants.training_record import TRAINED_FOLDER


def base_to_train(context: VariantContext, variant: Variant, seed: int) -> Any:
    """Load the model to train: the base model, or the trained one that the variant continues from.
    The seed sets the initial head and adapter weights."""
    # Before loading, which draws the initial values of new heads and adapters.
    torch.manual_seed(seed)
    recipe = context.recipe
    if variant.start_from is not None:
        return adapters.load_to_continue(
            context.model_folder,
            start_folder(context, variant.start_from) / TRAINED_FOLDER,
            recipe.model,
            quantization=recipe.quantization,
            method=variant.method,
        )
    return loading.load_model(
        context.model_folder,
        recipe.model,
        quantization=recipe.quantization,
        labels=context.study.labels if variant.objective == "head" else None,
        full_precision=variant.method == "full",
    )


def start_folder(context: VariantContext, source: str) -> Path:
    """Folder of the training that this one continues: that of the same number, so that several
    trainings start from several."""
    training = context.training % context.recipe.trainings(source)
    return training_folder(context.variants_folder, source, training)


def make_trainable(context: VariantContext, variant: Variant, base: nn.Module) -> nn.Module:
    """Add the variant's adapter to a base model; a model that is trained further has it already."""
    if variant.start_from is not None:
        return base
    return adapters.make_trainable(base, variant, {**context.recipe.lora, **variant.lora})
