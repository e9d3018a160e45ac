"""How well a cheap classifier predicts a column from the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from prooftune.utils.words import words

_SAMPLE = 2000
"""Rows by which predictability is measured."""


def _terms(text: str) -> list[str]:
    """Words and pairs of words; letters, where a script has no spaces."""
    tokens = words(text)
    return [*tokens, *map(" ".join, pairwise(tokens))]


def predictability(texts: Sequence[str], labels: Sequence[str]) -> float | None:
    """How much of the room above the commonest value a cheap classifier gains, -1 to 1.

    The classifier is complement naive Bayes over hashed words and word parts, three-fold
    cross-validated on at most 2,000 rows.

    Returns:
        None where too few rows have a label that comes at least three times.
    """
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.naive_bayes import ComplementNB

    counts = Counter(label for label in labels if label)
    # Three folds need three rows of each label.
    usable = [i for i, label in enumerate(labels) if counts[label] >= 3 and texts[i].strip()]
    # Spread over the file, since the first rows of a sorted file have one label.
    step = max(1, len(usable) // _SAMPLE)
    usable = usable[::step][:_SAMPLE]
    # Some labels have fewer than three rows in the sample.
    counts = Counter(labels[i] for i in usable)
    usable = [i for i in usable if counts[labels[i]] >= 3]
    counts = Counter(labels[i] for i in usable)
    if len(counts) < 2 or len(usable) < 12:
        return None
    # Hashing needs no vocabulary; naive Bayes takes no negative counts, which signs would give.
    vectorizer = HashingVectorizer(n_features=2**14, alternate_sign=False, analyzer=_terms)
    features = vectorizer.transform([texts[i][:2000] for i in usable])
    y = np.array([labels[i] for i in usable])
    # A fixed seed: the same file must give the same recipe.
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    predicted = cross_val_predict(ComplementNB(), features, y, cv=folds)
    base = max(counts.values()) / len(usable)
    accuracy = float((predicted == y).mean())
    return (accuracy - base) / (1 - base) if base < 1 else None
