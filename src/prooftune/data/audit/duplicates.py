"""Exact and near-duplicate detection.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997;
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). Every candidate pair is then
verified with the exact Jaccard similarity of the shingle sets, so there are no false positives.
About one in thirty pairs right at the threshold is missed; more similar pairs are missed less
often. Texts with few words are compared by character n-grams (docs/statistics.md, Near-copies).
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import sqrt
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from prooftune.data.normalization import (
    LONG_WORDS,
    SHORT_WORDS,
    character_shingles,
    word_shingles,
)
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.progress import progress_bar


class Hashes(NamedTuple):
    """Hashes of texts.

    Attributes:
        bands: LSH bucket in every band, [texts, bands]; similar texts share a bucket.
        sketches: the lowest bit of every MinHash, 128 bits as [texts, 2].
    """

    bands: NDArray[np.uint32]
    sketches: NDArray[np.uint64]


class Shingling(NamedTuple):
    """A kind of n-grams, and the texts that are compared by it.

    Attributes:
        shingles: normalised text -> its n-grams.
        applies: normalised text -> whether it is compared by them.
    """

    shingles: Callable[[str], frozenset[str]]
    applies: Callable[[str], bool]


SHINGLINGS = (
    # Normalised texts have single spaces, one less than words.
    Shingling(character_shingles, lambda key: key.count(" ") < SHORT_WORDS),
    Shingling(word_shingles, lambda key: key.count(" ") >= LONG_WORDS - 1),
)

_Split = TypeVar("_Split", bound=str)

NUM_PERMUTATIONS = 128
_PROGRESS_BAR_ROWS = 5_000
"""Number of texts from which hashing takes about a second, so that a progress bar is useful."""
CHUNK_ROWS = 1_000
MAX_BUCKET = 100
"""Texts of a bucket that are compared with a text. In rows made from one template all are similar,
and comparing all pairs of a million would never end; a few suffice to find a copy."""


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
            name: _LshIndex(texts[name].keys, name, threshold, shingling)
            for name in sorted({second for _, second in pairs})
        }
        for first in dict.fromkeys(first for first, _ in pairs):
            chunks = (
                # An indexed split has its hashes already; do not compute them again.
                indexes[first].chunks()
                if first in indexes
                else _hash_chunks(texts[first].keys, first, threshold, shingling)
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
                        # By the other n-grams only if more similar: of equal pairs that of the
                        # shorter n-grams stays.
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
        index = _LshIndex(texts.keys, "all", threshold, shingling)
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
    keys: Sequence[str], name: str, threshold: float, shingling: Shingling
) -> Iterator[tuple[int, list[str], Hashes]]:
    """Yield the texts in chunks: index of the first one, the texts, and their hashes."""
    from datasketch import MinHash

    num_bands, width = _band_shape(threshold)
    # Multiply-shift hashing of vectors (Dietzfelbinger 1996).
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64)
    title = f"Comparing {name} texts" if len(keys) >= _PROGRESS_BAR_ROWS else None
    with progress_bar(title, len(keys)) as progress:
        for start in range(0, len(keys), CHUNK_ROWS):
            texts = list(keys[start : start + CHUNK_ROWS])
            shingle_sets = ([s.encode() for s in shingling.shingles(text)] for text in texts)
            # The hash decides only about candidates, so the fastest one of the standard library is
            # good enough.
            minhashes = MinHash.generator(
                shingle_sets, num_perm=NUM_PERMUTATIONS, hashfunc=zlib.crc32
            )
            signatures = np.stack([m.hashvalues for m in minhashes]).astype(np.uint64)
            bands = signatures[:, : num_bands * width].reshape(-1, num_bands, width)
            # uint64 overflow is intended: the hash is the high half of the sum modulo 2^64.
            hashes = ((bands * factors).sum(axis=2) >> np.uint64(32)).astype(np.uint32)
            bits = np.packbits((signatures & np.uint64(1)).astype(np.uint8), axis=1)
            yield start, texts, Hashes(hashes, bits.view(np.uint64))
            progress.advance(0, len(texts))  # type: ignore[arg-type]


def _min_equal_bits(threshold: float) -> float:
    """Return how many bits of two sketches are equal at least where texts are similar enough.

    Two texts of Jaccard similarity J have the same lowest bit of a MinHash with probability
    (1 + J) / 2 (Li and König, b-bit minwise hashing, 2010); one similar pair in 700 has fewer equal
    bits than this, three standard deviations below the mean.
    """
    share = (1 + threshold) / 2
    return NUM_PERMUTATIONS * share - 3 * sqrt(NUM_PERMUTATIONS * share * (1 - share))


class _LshIndex:
    """LSH index for similarity search; needs 12 bytes per text and band, and 16 per text.

    Attributes:
        shingles: index -> shingles of the text, cached.
    """

    def __init__(
        self, keys: Sequence[str], name: str, threshold: float, shingling: Shingling
    ) -> None:
        self._texts = keys
        self._shingle = shingling.shingles
        self._min_equal_bits = _min_equal_bits(threshold)
        chunks = [hashes for _, _, hashes in _hash_chunks(keys, name, threshold, shingling)]
        self._hashes = Hashes(
            np.concatenate([c.bands for c in chunks] or [np.empty((0, 1), np.uint32)]),
            np.concatenate([c.sketches for c in chunks] or [np.empty((0, 2), np.uint64)]),
        )
        # Sorted per band, so that a bucket is found by binary search.
        bands = self._hashes.bands.T
        self._orders = [np.argsort(band, kind="stable").astype(np.int32) for band in bands]
        self._sorted = [band[order] for band, order in zip(bands, self._orders, strict=True)]
        # Not a decorated method: its cache would keep every index alive (ruff B019).
        self.shingles = lru_cache(CHUNK_ROWS)(lambda i: shingling.shingles(keys[i]))

    def chunks(self) -> Iterator[tuple[int, list[str], Hashes]]:
        """Yield the indexed texts themselves, as `_hash_chunks` does."""
        for start in range(0, len(self._texts), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            yield (
                start,
                list(self._texts[part]),
                Hashes(self._hashes.bands[part], self._hashes.sketches[part]),
            )

    def candidates(self, hashes: Hashes) -> list[tuple[int, list[int]]]:
        """Return (row, indices of indexed texts that are probably similar), for rows with any.

        Such texts share a bucket with the row, and their sketches are alike.
        """
        pairs = [np.empty(0, np.int64)]
        # Not strict: an empty index has one band only.
        for band, order, values in zip(hashes.bands.T, self._orders, self._sorted, strict=False):
            starts = np.searchsorted(values, band, "left")
            sizes = np.minimum(np.searchsorted(values, band, "right") - starts, MAX_BUCKET)
            rows = np.repeat(np.arange(len(band)), sizes)
            # Position of every pair within its bucket.
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            # A pair is one number, so that `unique` drops pairs that share several buckets.
            pairs.append(rows * len(self._texts) + order[starts[rows] + offsets])
        rows, others = np.divmod(np.unique(np.concatenate(pairs)), max(1, len(self._texts)))
        different = hashes.sketches[rows] ^ self._hashes.sketches[others]
        equal_bits = NUM_PERMUTATIONS - np.bitwise_count(different).sum(axis=1)
        similar = equal_bits >= self._min_equal_bits
        rows, others = rows[similar], others[similar]
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        groups = np.split(others, firsts[1:]) if len(firsts) else []
        return [(int(rows[f]), g.tolist()) for f, g in zip(firsts, groups, strict=True)]

    def most_similar(self, text: str, candidates: Iterable[int]) -> tuple[float, int]:
        """Return the largest Jaccard similarity among the candidates, and the first such index."""
        shingles = self._shingle(text)
        # Negated indices: among equal similarities, max() then returns the smallest index.
        similarity, negative_index = max(
            (jaccard(shingles, self.shingles(j)), -j) for j in candidates
        )
        return similarity, -negative_index
