"""Exact and near-duplicate detection.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997;
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). Every candidate pair is then
verified with the exact Jaccard similarity of the shingle sets, so there are no false positives.
About one in thirty pairs right at the threshold is missed; more similar pairs are missed less
often.
"""

from __future__ import annotations

import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from prooftune.data.normalization import word_shingles
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.progress import progress_bar

BandHashes = NDArray[np.uint32]
"""LSH bucket of every text in every band, [texts, bands]; similar texts share a bucket."""
_Split = TypeVar("_Split", bound=str)

NUM_PERMUTATIONS = 128
_PROGRESS_BAR_ROWS = 5_000
"""Number of texts from which hashing takes about a second, so that a progress bar is useful."""
CHUNK_ROWS = 1_000


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

    Args:
        keys: split -> keys that are compared (`normalization.near_key`).
        pairs: pairs of splits (first, second) to compare.
        threshold: minimum Jaccard similarity of the word 3-grams.
        exact_keys: split -> dedup keys, by which exact copies are left out; None: `keys`.

    Returns:
        Pair of splits -> (index in first, index of the most similar text in second) for every text
        found.
    """
    # One index per compared split; several pairs can share it.
    indexes = {
        name: _LshIndex(keys[name], name, threshold)
        for name in sorted({second for _, second in pairs})
    }
    matches: dict[tuple[_Split, _Split], list[tuple[int, int]]] = {pair: [] for pair in pairs}
    for first in dict.fromkeys(first for first, _ in pairs):
        exact = keys if exact_keys is None else exact_keys
        digests = _digests(exact[first])
        has_exact_copy = {
            second: np.isin(digests, _digests(exact[second]))
            for name, second in pairs
            if name == first
        }
        chunks = (
            # An indexed split has its hashes already; do not compute them again.
            indexes[first].chunks()
            if first in indexes
            else _hash_chunks(keys[first], first, threshold)
        )
        for start, texts, hashes in chunks:
            for second, is_copied in has_exact_copy.items():
                for i, candidates in indexes[second].candidates(hashes):
                    # Empty texts have no shingles, and exact copies are reported by another check.
                    if texts[i] and not is_copied[start + i]:
                        similarity, j = indexes[second].most_similar(texts[i], candidates)
                        if similarity >= threshold:
                            matches[first, second].append((start + i, j))
    return matches


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
    distinct = array("q", (i for i, root in enumerate(parent) if i == root))
    index = _LshIndex(
        # Index one text per group of exact copies, so that a text repeated a million times does not
        # fill its buckets.
        keys if len(distinct) == len(keys) else DiskBackedList(keys[i] for i in distinct),
        "all",
        threshold,
    )
    for start, texts, hashes in index.chunks():
        for i, candidates in index.candidates(hashes):
            for j in candidates:
                root = _find_root(parent, distinct[start + i])
                other_root = _find_root(parent, distinct[j])
                # Skip pairs that are already in one cluster: the exact similarity is the slow part.
                if root != other_root:
                    similarity = jaccard(word_shingles(texts[i]), index.shingles(j))
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


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets: size of the intersection over the union."""
    return len(a & b) / len(a | b)


def _band_shape(threshold: float) -> tuple[int, int]:
    """Return the number of LSH bands and the number of hash values per band."""
    from datasketch import MinHashLSH

    # Equal weights would miss two of three pairs right at the threshold, whereas a false candidate
    # only costs its verification. Above 0.95 there are too few bands to choose from.
    lsh = MinHashLSH(
        threshold=min(threshold, 0.95), num_perm=NUM_PERMUTATIONS, weights=(0.02, 0.98)
    )
    return lsh.b, lsh.r


def _hash_chunks(
    keys: Sequence[str], name: str, threshold: float
) -> Iterator[tuple[int, list[str], BandHashes]]:
    """Yield the texts in chunks: index of the first one, the texts, and their band hashes."""
    from datasketch import MinHash

    num_bands, width = _band_shape(threshold)
    # Multiply-shift hashing of vectors (Dietzfelbinger 1996).
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64)
    title = f"Comparing {name} texts" if len(keys) >= _PROGRESS_BAR_ROWS else None
    with progress_bar(title, len(keys)) as progress:
        for start in range(0, len(keys), CHUNK_ROWS):
            texts = list(keys[start : start + CHUNK_ROWS])
            shingle_sets = ([s.encode() for s in word_shingles(text)] for text in texts)
            # The hash decides only about candidates, so the fastest one of the standard library is
            # good enough.
            minhashes = MinHash.generator(
                shingle_sets, num_perm=NUM_PERMUTATIONS, hashfunc=zlib.crc32
            )
            signatures = np.stack([m.hashvalues[: num_bands * width] for m in minhashes])
            bands = signatures.astype(np.uint64).reshape(-1, num_bands, width)
            # uint64 overflow is intended: the hash is the high half of the sum modulo 2^64.
            hashes = ((bands * factors).sum(axis=2) >> np.uint64(32)).astype(np.uint32)
            yield start, texts, hashes
            progress.advance(0, len(texts))  # type: ignore[arg-type]


class _LshIndex:
    """LSH index for similarity search; needs twelve bytes per text and band.

    Attributes:
        shingles: index -> shingles of the text, cached.
    """

    def __init__(self, keys: Sequence[str], name: str, threshold: float) -> None:
        self._texts = keys
        chunks = [hashes for _, _, hashes in _hash_chunks(keys, name, threshold)]
        self._hashes: BandHashes = np.concatenate(chunks) if chunks else np.empty((0, 1), np.uint32)
        # Sorted per band, so that a bucket is found by binary search.
        self._orders = [np.argsort(band, kind="stable").astype(np.int32) for band in self._hashes.T]
        self._sorted = [
            band[order] for band, order in zip(self._hashes.T, self._orders, strict=True)
        ]
        self.shingles = lru_cache(CHUNK_ROWS)(lambda i: word_shingles(keys[i]))

    def chunks(self) -> Iterator[tuple[int, list[str], BandHashes]]:
        """Yield the indexed texts themselves, as `_hash_chunks` does."""
        for start in range(0, len(self._texts), CHUNK_ROWS):
            end = start + CHUNK_ROWS
            yield start, list(self._texts[start:end]), self._hashes[start:end]

    def candidates(self, hashes: BandHashes) -> list[tuple[int, list[int]]]:
        """Return (row, indices of indexed texts that share a bucket with it), for rows with any."""
        candidates: dict[int, set[int]] = defaultdict(set)
        for band, order, values in zip(hashes.T, self._orders, self._sorted, strict=False):
            starts = np.searchsorted(values, band, "left")
            ends = np.searchsorted(values, band, "right")
            for i in np.flatnonzero(ends > starts).tolist():
                candidates[i].update(order[starts[i] : ends[i]].tolist())
        return [(i, sorted(candidates[i])) for i in sorted(candidates)]

    def most_similar(self, text: str, candidates: Iterable[int]) -> tuple[float, int]:
        """Return the largest Jaccard similarity among the candidates, and the first such index."""
        shingles = word_shingles(text)
        # Negated indices: among equal similarities, max() then returns the smallest index.
        similarity, negative_index = max(
            (jaccard(shingles, self.shingles(j)), -j) for j in candidates
        )
        return similarity, -negative_index
