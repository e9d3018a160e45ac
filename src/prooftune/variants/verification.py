"""Verify that the weights read back from disk are those that were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from prooftune.engine.fused.prepacked_weights import without_prepacked_weights
from prooftune.engine.precision import autocast
from prooftune.engine.scoring import score_labels
from prooftune.errors import Failure
from prooftune.recipe import Scoring
from prooftune.tasks.classification import label_scores
from prooftune.tasks.prompt_encoding import PromptEncoder
from prooftune.types import Example
from prooftune.variant_details import Probe
from prooftune.variants.context import VariantContext

PROBE_ROWS = 8
"""Test rows whose scores are compared before and after training, and after reloading."""

_PROBE_WORDS = ("The", "yes", "no", "unanswerable")
"""Answers whose probabilities `verify_reload` compares where a study has no labels."""


def probe_scores(
    model: nn.Module, encoder: PromptEncoder, probe: Sequence[Example], head: bool
) -> Tensor:
    """Log-probabilities [rows, labels] of the probe rows; for questions, of `_PROBE_WORDS`.

    Computed with plain weights, so that prepacking for training does not change the rounding.
    """
    was_training = model.training
    model.eval()
    rows = [encoder.encode(e.inputs).token_ids for e in probe]
    with without_prepacked_weights(), autocast(model):
        if head or encoder.label_ids:
            scores = label_scores(model, encoder, rows, Scoring(), head=head, description=None)
        else:
            words = [encoder.encode_answer(word) for word in _PROBE_WORDS]
            scores = torch.zeros(len(rows), len(words), dtype=torch.float64)
            for numbers, values in score_labels(
                model, encoder.prefix, rows, words, encoder.stop_token_id
            ):
                scores[numbers] = values.double()
    model.train(was_training)
    return scores


def verify_reload(
    model: nn.Module,
    encoder: PromptEncoder,
    context: VariantContext,
    folder: Path,
    head: bool,
    probe: Probe,
    *,
    exact: bool,
) -> None:
    """Check that the reloaded model is the trained one: neither the base model, nor one that lost
    its classification head on the way.

    The probe's scores must be closer to the trained model's than to the untuned model's.

    Args:
        folder: folder of the saved weights, for the message.
        head: whether the model ends in a classification head.
        probe: scores before and after training.
        exact: the weights were saved without rounding (adapters). False for a whole model, which is
            saved in the compute dtype, so its scores may differ by a rounding error.

    Raises:
        Failure: the scores differ by more.
    """
    actual = probe_scores(model, encoder, context.study.test[:PROBE_ROWS], head)
    compare_probe(actual, folder, probe, exact=exact)


def compare_probe(actual: Tensor, folder: Path, probe: Probe, *, exact: bool) -> None:
    """Compare the probe's scores [rows, labels] of a reloaded model with those recorded.

    Args:
        actual: scores of the reloaded model.
        folder, probe, exact: as of `verify_reload`.

    Raises:
        Failure: the scores differ by more than a rounding error.
    """
    before, after = (
        torch.tensor(scores, dtype=actual.dtype) for scores in (probe["before"], probe["after"])
    )
    difference = (actual - after).abs().max().item()
    change = (after - before).abs().max().item()
    # At most half of what training changed, so that the untuned model does not pass; at least the
    # rounding of a reload.
    tolerance = max(1e-3, min(0.02, change / 2)) if exact else max(0.02, min(0.5, change / 2))
    if not difference <= tolerance:  # also true for NaN
        raise Failure(
            f"the weights saved in {folder} do not predict as the trained "
            f"model did (largest difference of a log-probability: {difference:.3g}). Delete that "
            "folder to train again; if the error returns, report it."
        )
