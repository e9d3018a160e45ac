"""Out-of-fold label probabilities of the cheap classifiers, for rows that they are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prooftune.models.text_classifier import EMBEDDING_BATCH_TOKENS, joined_texts, make_vectorizer
from prooftune.recipe import Variant
from prooftune.types import Example

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

Floats = NDArray[np.float64]

FOLDS = 10
TFIDF_STRENGTH, EMBEDDING_STRENGTH = 10.0, 3.0
"""Inverse regularisation strengths. Fixed: a weaker penalty would fit the wrong labels of other
rows, and a search for the best would cost as much as the whole cross-validation."""

NEIGHBOURS, SHARPNESS, _SMOOTHING, _CHUNK = 20, 10.0, 0.02, 1_000
"""Neighbours of a row; factor of the cosine similarity in the exponent of a neighbour's weight;
share of probability spread over all labels; rows per matrix product."""


def tfidf_probabilities(examples: Sequence[Example], labels: Sequence[str], seed: int) -> Floats:
    """Out-of-fold probabilities of TF-IDF and logistic regression, [n, labels]."""
    # The vocabulary and its weights see no label, so that all rows may share them.
    features = make_vectorizer().fit_transform(joined_texts(examples))
    return _out_of_fold(features, _targets(examples), labels, TFIDF_STRENGTH, seed)


def embedding_features(
    examples: Sequence[Example], variant: Variant, title: str
) -> NDArray[np.float32]:
    """Unit vectors of a variant of kind embedding, [n, dimensions].

    Args:
        examples: the rows.
        variant: names the embedding model and its prompt.
        title: of the progress bar.
    """
    from prooftune.models import embeddings

    folder = embeddings.resolve(variant.embedding_model or embeddings.DEFAULT_EMBEDDING)
    prompt = embeddings.feature_prompt(folder, variant.prompt_name)
    return embeddings.embed(
        joined_texts(examples), folder, EMBEDDING_BATCH_TOKENS, title, prompt=prompt
    )


def embedding_probabilities(
    vectors: NDArray[np.float32], examples: Sequence[Example], labels: Sequence[str], seed: int
) -> Floats:
    """Probabilities by sentence embeddings, [n, labels]: the mean of an out-of-fold logistic
    regression and of the nearest neighbours, which are wrong about other rows."""
    targets = _targets(examples)
    regression = _out_of_fold(vectors, targets, labels, EMBEDDING_STRENGTH, seed)
    return (regression + _neighbours(vectors, targets, labels)) / 2


def _neighbours(
    vectors: NDArray[np.float32], targets: Sequence[str], labels: Sequence[str]
) -> Floats:
    """Label shares among the `NEIGHBOURS` most similar other rows, weighted by similarity, [n,
    labels]."""
    n = len(targets)
    one_hot = np.array([[target == label for label in labels] for target in targets], np.float64)
    count, shares = min(NEIGHBOURS, n - 1), np.empty((n, len(labels)))
    for start in range(0, n, _CHUNK):
        similar = vectors[start : start + _CHUNK] @ vectors.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -2.0  # a row is not its own neighbour
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        weights = np.exp(SHARPNESS * similar[rows[:, None], nearest].astype(np.float64))
        votes = (one_hot[nearest] * weights[:, :, None]).sum(axis=1)
        shares[start : start + len(similar)] = votes / votes.sum(axis=1, keepdims=True)
    # No label is impossible because no neighbour has it.
    return (1 - _SMOOTHING) * shares + _SMOOTHING / len(labels)


def can_cross_validate(examples: Sequence[Example]) -> bool:
    """Whether there are at least two labels with two rows each, the least that folds need."""
    counts = Counter(_targets(examples))
    return len(counts) > 1 and min(counts.values()) > 1


def _targets(examples: Sequence[Example]) -> list[str]:
    return [str(example.target) for example in examples]


def _out_of_fold(
    features: NDArray[np.float32] | spmatrix,
    targets: Sequence[str],
    labels: Sequence[str],
    strength: float,
    seed: int,
) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    folds = StratifiedKFold(min(FOLDS, *Counter(targets).values()), shuffle=True, random_state=seed)
    model = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
    with threadpool_limits(1):
        found = cross_val_predict(model, features, list(targets), cv=folds, method="predict_proba")
    probabilities = np.zeros((len(targets), len(labels)))
    probabilities[:, [list(labels).index(label) for label in sorted(set(targets))]] = found
    return probabilities
