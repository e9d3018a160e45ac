"""Estimated time of a pretraining, from the measured rate of tuning steps."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from prooftune.data.unlabelled_texts import read_unlabelled_texts, training_texts
from prooftune.engine.model_parts import base_model
from prooftune.models import adapters
from prooftune.recipe import Variant
from prooftune.variants.context import VariantContext
from prooftune.variants.measured_rates import evenly_spaced
from prooftune.variants.pretraining import MEASURED_PIECES, language_modelling_rows

_SAMPLE = 1000
"""Texts that are tokenised; the others are taken to be as long on average."""
_EVALUATIONS, _FORWARD_SHARE = 5, 0.5
"""Evaluations on validation texts, and the time per token of a forward pass as a share of a
step's."""


def pretraining_seconds(
    context: VariantContext, variant: Variant, base: Path, model: nn.Module, rate: float
) -> float:
    """Seconds of a variant's pretraining; 0 without one.

    Args:
        context: the study; its folder is not used.
        variant: the variant.
        base: folder of the recipe's relative paths.
        model: the model that is tuned.
        rate: measured seconds per token of a tuning step, which computes few logits.
    """
    settings = variant.pretrain
    if settings is None:
        return 0.0
    texts = (
        training_texts(context.study.train)
        if settings.reads_training_rows
        else read_unlabelled_texts(settings, context.recipe.data, base)
    )
    # Not the first ones: files are often sorted by length or source.
    sample = evenly_spaced(texts, _SAMPLE)
    length = settings.max_length or context.recipe.prompt.max_length
    # Cut as in the training, since the rate depends on tokens after cutting.
    rows = language_modelling_rows([t.text for t in sample], context.tokenizer, length)
    tokens = sum(len(row) for row in rows) * len(texts) / len(sample) * settings.num_train_epochs
    config = base_model(model).config
    output_head = int(config.vocab_size) * int(config.hidden_size)
    # Logits of every token: the output head is computed like one more layer of its size.
    factor = 1 + output_head / max(1, adapters.trainable_counts(model)[1] - output_head)
    held_out = length * min(MEASURED_PIECES, len(context.study.validation))
    return rate * factor * (tokens + _EVALUATIONS * _FORWARD_SHARE * held_out)
