"""Candidates for near-duplicates: locality-sensitive hashing of MinHash signatures."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        name: of the n-grams, for messages.
        shingles: normalised text -> its n-grams.
        applies: normalised text -> whether it is compared by them.
    """

    name: str
    shingles: Callable[[str], frozenset[str]]
    applies: Callable[[str], bool]


NUM_PERMUTATIONS = 128


_PROGRESS_BAR_ROWS = 5_000
"""Number of texts from which hashing takes about a second, so that a progress bar is useful."""


CHUNK_ROWS = 1_000


MAX_BUCKET = 100
"""Texts of a bucket that are compared with a text. In rows made from one template all are similar,
and comparing all pairs of a million would never end; a few suffice to find a copy."""


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


def hash_chunks(
    keys: Sequence[str], name: str, threshold: float, shingling: Shingling
) -> Iterator[tuple[int, list[str], Hashes]]:
    """Yield the texts in chunks: index of the first one, the texts, and their hashes."""
    from datasketch import MinHash

    num_bands, width = _band_shape(threshold)
    # Multiply-shift hashing of vectors (Dietzfelbinger 1996).
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64)
    title = None
    if len(keys) >= _PROGRESS_BAR_ROWS:
        title = f"near-duplicates: {len(keys):,} texts ({name}), by {shingling.name}"
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


class LshIndex:
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
        chunks = [hashes for _, _, hashes in hash_chunks(keys, name, threshold, shingling)]
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
        """Yield the indexed texts themselves, as `hash_chunks` does."""
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
