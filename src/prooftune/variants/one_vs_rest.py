"""The regularisation of one logistic regression per label, for ``task: multilabel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prooftune.models.one_vs_rest import Floats, OneVsRest, fit_one_vs_rest

if TYPE_CHECKING:
    from prooftune.models.embeddings import Vectors

STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths (C) that are compared; several labels share the best one."""
FALLBACK_STRENGTH = 10.0
"""C where there are no rows to choose it on."""
_FOLDS = 5


class FeatureRows(Protocol):
    """A dense or sparse matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""


def choose_strength(
    features: FeatureRows,
    targets: Sequence[Sequence[str]],
    held_out: FeatureRows | None,
    held_out_targets: Sequence[Sequence[str]],
    seed: int,
) -> tuple[OneVsRest, float]:
    """Fit with the C of the lowest log-loss on held-out rows; 10 where there are none.

    Args:
        features: [rows, columns].
        targets: labels of each row.
        held_out: features of the held-out rows.
        held_out_targets: their labels.
        seed: of the solver.
    """
    if held_out is None:
        return fit_one_vs_rest(features, targets, FALLBACK_STRENGTH, seed), FALLBACK_STRENGTH
    fitted = [(fit_one_vs_rest(features, targets, c, seed), c) for c in STRENGTHS]
    # `min` takes the first of equals: the strongest regularisation.
    return min(fitted, key=lambda pair: mean_log_loss(pair[0], held_out, held_out_targets))


def cross_validate_strength(
    features: Vectors, targets: Sequence[Sequence[str]], seed: int
) -> tuple[OneVsRest, float]:
    """Fit with the C of the lowest cross-validated log-loss on the training rows.

    Args:
        features: [rows, dimensions].
        targets: labels of each row.
        seed: of the folds.
    """
    from threadpoolctl import threadpool_limits

    n = len(targets)
    # Not stratified: label sets are too many to balance.
    folds = np.random.default_rng(seed).permutation(n) % min(_FOLDS, n)
    # As for one label: matmuls of this size are slower on several threads.
    with threadpool_limits(1):
        losses = []
        for c in STRENGTHS if n >= _FOLDS else ():
            loss = 0.0
            for fold in range(_FOLDS):
                train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
                fitted = [targets[i] for i in train.tolist()]
                own = [targets[i] for i in held.tolist()]
                model = fit_one_vs_rest(features[train], fitted, c, seed)
                loss += mean_log_loss(model, features[held], own) * len(held)
            losses.append(loss)
        strength = STRENGTHS[int(np.argmin(losses))] if losses else FALLBACK_STRENGTH
        return fit_one_vs_rest(features, targets, strength, seed), strength


def mean_log_loss(
    model: OneVsRest, features: FeatureRows, targets: Sequence[Sequence[str]]
) -> float:
    """Binary log-loss in nats, mean over rows, summed over the model's labels."""
    # A certain wrong label would cost infinitely much, and log(1 - p) needs p < 1.
    log_probs: Floats = np.clip(model.predict_log_proba(features), -36.0, -1e-16)
    present = np.array([[label in row for label in model.classes_] for row in targets])
    # log(1 - p), without the cancellation that 1 - exp would bring.
    absent = np.log(-np.expm1(log_probs))
    return float(-np.where(present, log_probs, absent).sum() / max(len(targets), 1))
