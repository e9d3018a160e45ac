"""Exact and near-duplicate detection.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997;
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). Every candidate pair is then
verified with the exact Jaccard similarity of the shingle sets, so there are no false positives.
About one in thirty pairs right at the threshold is missed; more similar pairs are missed less
often. Texts with few words are compared by character n-grams (docs/statistics.md, Near-copies).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from prooftune.data.audit.lsh import LshIndex, Shingling, hash_chunks, jaccard
from prooftune.data.normalization import (
    LONG_WORDS,
    SHORT_WORDS,
    character_shingles,
    word_shingles,
)
from prooftune.utils.disk_list import DiskBackedList

SHINGLINGS = (
    # Normalised texts have single spaces, one less than words.
    Shingling("character 4-grams", character_shingles, lambda key: key.count(" ") < SHORT_WORDS),
    Shingling("word 3-grams", word_shingles, lambda key: key.count(" ") >= LONG_WORDS - 1),
)

_Split = TypeVar("_Split", bound=str)


class _Subset(NamedTuple):
    """The texts of a list that are compared by one kind of n-grams.

    Attributes:
        keys: the texts.
        indices: their indices in the list; None: all texts.
    """

    keys: Sequence[str]
    indices: array[int] | None

    @classmethod
    def of(
        cls, keys: Sequence[str], shingling: Shingling, among: Sequence[int] | None = None
    ) -> _Subset:
        if among is None:
            indices = array("q", (i for i, key in enumerate(keys) if shingling.applies(key)))
        else:
            indices = array("q", (i for i in among if shingling.applies(keys[i])))
        if len(indices) == len(keys):
            return cls(keys, None)
        return cls(DiskBackedList(keys[i] for i in indices), indices)

    def original(self, position: int) -> int:
        """Return the index in the whole list of the text at a position in the subset."""
        return position if self.indices is None else self.indices[position]


def duplicate_indices(texts: Iterable[str]) -> list[int]:
    """Return the indices of all texts that occur more than once, in order.

    Only a 64-bit digest of each text is held in memory. Two different texts with the same digest
    would be reported too; among a million texts the probability of one such pair is 1 in 37
    million.
    """
    digests = _digests(texts)
    # Sorting digests takes less memory than a dictionary of texts.
    values, counts = np.unique(digests, return_counts=True)
    indices: list[int] = np.flatnonzero(np.isin(digests, values[counts > 1])).tolist()
    return indices


def find_exact_duplicates(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Find the texts of `first` that also occur in `second`.

    Empty texts are not duplicates of each other.

    Returns:
        (index in first, index of the first copy in second) for every text found.
    """
    digests = _digests(first)
    values, indices = np.unique(_digests(second), return_index=True)
    pairs = [
        (i, int(indices[np.searchsorted(values, digests[i])]))
        for i in np.flatnonzero(np.isin(digests, values)).tolist()
    ]
    # Compare the texts themselves, because two texts can share a digest.
    return [(i, j) for i, j in pairs if first[i] and first[i] == second[j]]


def _digests(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter(
        (int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts),
        np.uint64,
    )


def find_near_duplicates(
    keys: Mapping[_Split, Sequence[str]],
    pairs: Sequence[tuple[_Split, _Split]],
    threshold: float,
    exact_keys: Mapping[_Split, Sequence[str]] | None = None,
) -> dict[tuple[_Split, _Split], list[tuple[int, int]]]:
    """Find the texts of one split with a near-duplicate, but no exact copy, in another.

    Short texts are compared by character n-grams, long ones by word n-grams (`SHINGLINGS`).

    Args:
        keys: split -> keys that are compared (`normalization.near_key`).
        pairs: pairs of splits (first, second) to compare.
        threshold: minimum Jaccard similarity of the n-grams.
        exact_keys: split -> dedup keys, by which exact copies are left out; None: `keys`.

    Returns:
        Pair of splits -> (index in first, index of the most similar text in second) for every text
        found, in order.
    """
    exact = keys if exact_keys is None else exact_keys
    digests = {name: _digests(exact[name]) for name in keys}
    copied = {(first, second): np.isin(digests[first], digests[second]) for first, second in pairs}
    best: dict[tuple[_Split, _Split], dict[int, tuple[float, int]]] = {pair: {} for pair in pairs}
    for shingling in SHINGLINGS:
        texts = {name: _Subset.of(keys[name], shingling) for name in keys}
        # One index per compared split; several pairs can share it.
        indexes = {
            name: LshIndex(texts[name].keys, name, threshold, shingling)
            for name in sorted({second for _, second in pairs})
        }
        for first in dict.fromkeys(first for first, _ in pairs):
            chunks = (
                # An indexed split has its hashes already; do not compute them again.
                indexes[first].chunks()
                if first in indexes
                else hash_chunks(texts[first].keys, first, threshold, shingling)
            )
            for start, chunk, hashes in chunks:
                for second in (second for name, second in pairs if name == first):
                    for row, candidates in indexes[second].candidates(hashes):
                        i = texts[first].original(start + row)
                        # Empty texts have no shingles, and exact copies are another check's.
                        if not chunk[row] or copied[first, second][i]:
                            continue
                        similarity, j = indexes[second].most_similar(chunk[row], candidates)
                        found = best[first, second].get(i, (0.0, 0))
                        # Of equally similar pairs that of the character n-grams stays: it is first.
                        if similarity >= threshold and similarity > found[0]:
                            best[first, second][i] = similarity, texts[second].original(j)
    return {pair: [(i, j) for i, (_, j) in sorted(found.items())] for pair, found in best.items()}


def duplicate_clusters(keys: Sequence[str], threshold: float | None) -> list[int]:
    """Cluster texts that are duplicates of each other, directly or through other texts.

    Args:
        keys: dedup keys (`dedup_key`).
        threshold: minimum Jaccard similarity of near-duplicates; None: exact duplicates only.

    Returns:
        Cluster id of every text: the index of one text in the cluster.
    """
    # A union-find forest in an array, since there can be millions of texts.
    parent = array("q", range(len(keys)))
    first_index: dict[str, int] = {}
    for i in duplicate_indices(keys):
        parent[i] = first_index.setdefault(keys[i], i)
    if threshold is None:
        return parent.tolist()
    # Index one text per group of exact copies, so that a text repeated a million times does not
    # fill its buckets.
    distinct = array("q", (i for i, root in enumerate(parent) if i == root))
    for shingling in SHINGLINGS:
        texts = _Subset.of(keys, shingling, distinct)
        index = LshIndex(texts.keys, "all", threshold, shingling)
        for start, chunk, hashes in index.chunks():
            for row, candidates in index.candidates(hashes):
                if not chunk[row]:
                    continue
                for j in candidates:
                    root = _find_root(parent, texts.original(start + row))
                    other_root = _find_root(parent, texts.original(j))
                    # Skip pairs in one cluster already: the exact similarity is the slow part.
                    if root != other_root:
                        similarity = jaccard(index.shingles(j), shingling.shingles(chunk[row]))
                        if similarity >= threshold:
                            parent[root] = other_root
    return [_find_root(parent, i) for i in range(len(keys))]


def _find_root(parent: array[int], i: int) -> int:
    """Find the root of a union-find tree, halving the path on the way."""
    while parent[i] != i:
        # Path halving keeps the trees flat without recursion.
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
