"""Slices of test rows found in their inputs, labels and metadata, without a look at predictions."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.error_slices import MIN_ROWS, Slice
from prooftune.types import Example
from prooftune.utils.words import words as words_of

MAX_VALUES = 12
"""Values of one attribute that become slices, the most frequent ones."""
MAX_CLUSTERS, ROWS_PER_CLUSTER = 8, 100
CLUSTER_WORDS = 3
"""Characteristic words that name a cluster."""
_SCRIPT_LETTERS = 50
"""Letters of a text that are looked at for its script."""


def discover_slices(examples: Sequence[Example]) -> list[Slice]:
    """Slices by length, label (or whether there is an answer), language, script, source file and
    metadata.

    Args:
        examples: the test rows.
    """
    found = list(_by_length(examples))
    found += _by_value("label" if examples[0].references is None else "question", _strata(examples))
    found += _by_value("language", [e.language for e in examples])
    found += _by_value("script", [_script(e) for e in examples])
    found += _by_value("source", [e.source.rpartition(":")[0] for e in examples])
    for column in dict.fromkeys(name for e in examples for name, _ in e.metadata):
        found += _by_value(column, [dict(e.metadata).get(column) for e in examples])
    return found


def rare_values(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Metadata column -> its values with too few test rows for a slice, the most frequent first.

    Args:
        examples: the test rows.
    """
    by_column = {}
    for column in dict.fromkeys(name for e in examples for name, _ in e.metadata):
        counts = Counter(dict(e.metadata).get(column) for e in examples)
        if rare := [str(v or "(empty)") for v, n in counts.most_common() if n < MIN_ROWS]:
            by_column[column] = rare
    return by_column


def _strata(examples: Sequence[Example]) -> list[str]:
    return [example.stratum for example in examples]


def _by_length(examples: Sequence[Example]) -> Iterator[Slice]:
    """The shortest quarter, the longest quarter and the longest tenth, by rounded word counts."""
    words = np.array([len(words_of(" ".join(e.inputs.values()))) for e in examples])
    # Quantiles of this test set: what counts as long differs between tweets and articles.
    short, long, longest = (_rounded(float(np.quantile(words, q))) for q in (0.25, 0.75, 0.9))
    yield Slice("length", f"texts of up to {short:,} words", words <= short)
    yield Slice("length", f"texts over {long:,} words", words > long)
    if longest > long:
        yield Slice("length", f"texts over {longest:,} words", words > longest)


def _rounded(value: float) -> int:
    """Two significant digits, so that a slice can be said in words."""
    return round(float(f"{value:.2g}"))


def _by_value(attribute: str, values: Sequence[str | None]) -> list[Slice]:
    """One slice for each frequent value; none where all rows have the same one."""
    # Rare values would only add tests to correct for.
    counts = Counter(values)
    if len(counts) < 2:
        return []
    array = np.array([value if value is not None else "" for value in values], dtype=object)
    return [
        Slice(attribute, value or "(empty)", np.asarray(array == (value or "")))
        for value, count in counts.most_common(MAX_VALUES)
        if count >= MIN_ROWS
    ]


def _script(example: Example) -> str:
    """The script of most of the first letters: LATIN, ARABIC, CJK, ..."""
    # The first letters decide: reading whole documents would take longer and rarely change it.
    letters = [c for c in "".join(example.inputs.values())[:400] if c.isalpha()]
    names = Counter(unicodedata.name(c, "?").split(" ")[0] for c in letters[:_SCRIPT_LETTERS])
    return names.most_common(1)[0][0].capitalize() if names else "no letters"


def cluster_slices(vectors: NDArray[np.float32], texts: Sequence[str], seed: int) -> list[Slice]:
    """Clusters of embeddings by k-means, named by the words that are more frequent in them.

    Args:
        vectors: embedding of every test row, [n, d].
        texts: the rows' texts.
        seed: of k-means.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # k-means finds no more clusters than there are different points, and warns.
    distinct = len({vector.tobytes() for vector in vectors})
    clusters = min(MAX_CLUSTERS, len(texts) // ROWS_PER_CLUSTER, distinct)
    if clusters < 2:
        return []
    # Sums over several threads come in varying order, which would make clusters differ between
    # runs.
    with threadpool_limits(1):
        numbers = KMeans(clusters, n_init=3, random_state=seed).fit_predict(vectors)
    names = _characteristic_words(texts, numbers)
    return [
        Slice("topic", names[number], np.asarray(numbers == number)) for number in sorted(names)
    ]


def text_vectors(texts: Sequence[str], seed: int) -> NDArray[np.float32]:
    """Latent semantic vectors of texts (TF-IDF and truncated SVD), where the study has no embedding
    model, [n, d]."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    # Words of a single text, or of more than half of the texts, cannot form a topic.
    features = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5).fit_transform(texts)
    size = min(50, features.shape[1] - 1, len(texts) - 1)
    reduced = TruncatedSVD(size, random_state=seed).fit_transform(features)
    return np.asarray(normalize(reduced), dtype=np.float32)


def _characteristic_words(texts: Sequence[str], numbers: NDArray[np.int32]) -> dict[int, str]:
    """For each cluster the words whose share of texts exceeds that of other texts most."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        binary=True, max_features=5_000, token_pattern=r"(?u)\b[^\W\d_]{3,}\b"
    )
    table = counter.fit_transform(texts)
    words = counter.get_feature_names_out()
    overall = np.asarray(table.mean(axis=0)).ravel()
    names = {}
    for number in np.unique(numbers):
        own = np.asarray(table[numbers == number].mean(axis=0)).ravel()
        # The difference of square roots weighs rare words and frequent ones alike.
        best = np.argsort(np.sqrt(overall) - np.sqrt(own), kind="stable")[:CLUSTER_WORDS]
        names[int(number)] = ", ".join(str(words[i]) for i in best)
    return names
