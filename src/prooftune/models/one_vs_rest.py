"""Any number of labels per text: one logistic regression for each label (binary relevance)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prooftune.types import Example, Prediction
from prooftune.utils.label_sets import chosen_labels

Floats = NDArray[np.float64]

# Keeps log-probabilities finite: JSON has no infinity.
MIN_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class OneVsRest:
    """One logistic regression for each label, as one matrix.

    Attributes:
        coef_: [labels, columns].
        intercept_: [labels].
        classes_: label names, [labels].
    """

    coef_: Floats
    intercept_: Floats
    classes_: list[str]

    def predict_log_proba(self, features: object) -> Floats:
        """Log-probability of every label by itself, [texts, labels]."""
        from sklearn.utils.extmath import safe_sparse_dot

        logits = safe_sparse_dot(features, self.coef_.T, dense_output=True) + self.intercept_
        # log(1 / (1 + exp(-x))) without overflow.
        return np.asarray(-np.logaddexp(0.0, -logits))


def fit_one_vs_rest(
    features: object, targets: Sequence[Sequence[str]], strength: float, seed: int
) -> OneVsRest:
    """Logistic regression for each label against the rest (binary relevance).

    Labels that all rows have, or none, are predicted by their share alone, with add-one smoothing.

    Args:
        features: [rows, columns], dense or sparse.
        targets: labels of each row.
        strength: C, the inverse regularisation strength.
        seed: of the solver.
    """
    from sklearn.linear_model import LogisticRegression

    classes = sorted({label for row in targets for label in row})
    width = int(features.shape[1])  # type: ignore[attr-defined]
    coefficients, intercepts = np.zeros((len(classes), width)), np.zeros(len(classes))
    for i, label in enumerate(classes):
        present = np.array([label in row for row in targets])
        if present.all():
            intercepts[i] = np.log(len(targets) + 1.0)
            continue
        model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
        model.fit(features, present)
        coefficients[i], intercepts[i] = model.coef_[0], model.intercept_[0]
    return OneVsRest(coefficients, intercepts, classes)


def label_set_predictions(
    model: OneVsRest, features: object, examples: Sequence[Example], labels: Sequence[str]
) -> list[Prediction]:
    """Predicted label sets at the default threshold, with each label's own log-probability."""
    log_probs = np.full((len(examples), len(labels)), np.log(MIN_PROBABILITY))
    columns = [list(labels).index(label) for label in model.classes_]
    log_probs[:, columns] = np.maximum(model.predict_log_proba(features), log_probs[:, columns])
    return [
        Prediction(example.id, chosen_labels(row, labels), True, tuple(row))
        for example, row in zip(examples, log_probs.tolist(), strict=True)
    ]
