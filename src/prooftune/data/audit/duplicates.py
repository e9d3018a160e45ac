"""Texts that stand in the data more than once: exactly, or nearly.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997;
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). Each candidate is then
checked by the true Jaccard similarity of the two sets of shingles, so none is reported wrongly. Of
pairs that are just as similar as the threshold about one in thirty is missed, of more similar ones
fewer.
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

Keys = NDArray[np.uint32]
_Split = TypeVar("_Split", bound=str)

PERMUTATIONS = 128
_LONG = 5_000
"""Texts whose signatures take a second or so, which is worth a line."""
_AT_ONCE = 1_000


def duplicate_indices(texts: Iterable[str]) -> list[int]:
    """Places of the texts that stand there more than once, in order; what is held meanwhile is a
    digest of each. Two that differ and share one, of which there is a chance of one in 37 million
    among a million texts, are named too."""
    digests = _digests(texts)
    found, counts = np.unique(digests, return_counts=True)
    places: list[int] = np.flatnonzero(np.isin(digests, found[counts > 1])).tolist()
    return places


def find_exact_duplicates(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """For each text of `first` that also stands in `second`, its index and that of its first copy
    there.

    Empty texts are not copies of each other.
    """
    digests, (known, places) = _digests(first), np.unique(_digests(second), return_index=True)
    pairs = [
        (i, int(places[np.searchsorted(known, digests[i])]))
        for i in np.flatnonzero(np.isin(digests, known)).tolist()
    ]
    return [(i, j) for i, j in pairs if first[i] and first[i] == second[j]]


def _digests(texts: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter(
        (int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts),
        np.uint64,
    )


def find_near_duplicates(
    texts: Mapping[_Split, Sequence[str]], pairs: Sequence[tuple[_Split, _Split]], threshold: float
) -> dict[tuple[_Split, _Split], list[tuple[int, int]]]:
    """For pairs of splits, the texts of the first that nearly, but not exactly, stand in the
    second.

    Args:
        texts: split -> dedup keys (`dedup_key`).
        pairs: (first, second) splits.
        threshold: least Jaccard similarity.

    Returns:
        For each pair, (index in first, index in second): for each text found, the most similar one.
    """
    indexes = {
        name: _Index(texts[name], name, threshold)
        for name in sorted({second for _, second in pairs})
    }
    found: dict[tuple[_Split, _Split], list[tuple[int, int]]] = {pair: [] for pair in pairs}
    for first in dict.fromkeys(first for first, _ in pairs):
        own = _digests(texts[first])
        copied = {
            second: np.isin(own, _digests(texts[second])) for one, second in pairs if one == first
        }
        for start, some, keys in (
            indexes[first].chunks() if first in indexes else _chunks(texts[first], first, threshold)
        ):
            for second, stands in copied.items():
                for i, places in indexes[second].candidates(keys):
                    if some[i] and not stands[start + i]:
                        similarity, place = indexes[second].most_similar(some[i], places)
                        if similarity >= threshold:
                            found[first, second].append((start + i, place))
    return found


def duplicate_clusters(texts: Sequence[str], threshold: float | None) -> list[int]:
    """A number for each text, the same for texts that are duplicates of each other, also through
    others.

    Args:
        texts: dedup keys (`dedup_key`).
        threshold: least Jaccard similarity of near-duplicates; None: exact ones only.
    """
    parent = array("q", range(len(texts)))
    copies: dict[str, int] = {}
    for i in duplicate_indices(texts):
        parent[i] = copies.setdefault(texts[i], i)
    if threshold is None:
        return parent.tolist()
    places = array("q", (i for i, own in enumerate(parent) if i == own))
    index = _Index(
        texts if len(places) == len(texts) else DiskBackedList(texts[i] for i in places),
        "all",
        threshold,
    )
    for start, some, keys in index.chunks():
        for i, others in index.candidates(keys):
            for j in others:
                one, other = _root(parent, places[start + i]), _root(parent, places[j])
                if one != other and jaccard(word_shingles(some[i]), index.shingles(j)) >= threshold:
                    parent[one] = other
    return [_root(parent, i) for i in range(len(texts))]


def _root(parent: array[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over that of the union."""
    return len(a & b) / len(a | b)


def _bands(threshold: float) -> tuple[int, int]:
    """How many bands a signature is cut into, and how many of its numbers each has."""
    from datasketch import MinHashLSH

    # Even weights would miss two of three pairs that are as similar as the threshold; a candidate
    # too many costs only its check. Above 0.95 there are too few bands to choose from.
    found = MinHashLSH(threshold=min(threshold, 0.95), num_perm=PERMUTATIONS, weights=(0.02, 0.98))
    return found.b, found.r


def _chunks(
    texts: Sequence[str], name: str, threshold: float
) -> Iterator[tuple[int, list[str], Keys]]:
    """A thousand texts at a time: the first one's place, the texts, and keys [texts, bands], of
    which similar texts share one."""
    from datasketch import MinHash

    bands, width = _bands(threshold)
    # Multiply-shift hashing of vectors (Dietzfelbinger 1996).
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64)
    with progress_bar(
        f"Comparing {name} texts" if len(texts) >= _LONG else None, len(texts)
    ) as shown:
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            sets = ([s.encode() for s in word_shingles(text)] for text in some)
            # Only the candidates depend on the hash, so the fastest of the standard library will
            # do.
            made = MinHash.generator(sets, num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
            signatures = np.stack([one.hashvalues[: bands * width] for one in made]).astype(
                np.uint64
            )
            yield (
                start,
                some,
                (
                    (signatures.reshape(-1, bands, width) * factors).sum(axis=2) >> np.uint64(32)
                ).astype(np.uint32),
            )
            shown.advance(0, len(some))  # type: ignore[arg-type]


class _Index:
    """Texts among which similar ones are looked for; of each, twelve bytes a band are held.

    Attributes:
        shingles: place -> the text's shingles.
    """

    def __init__(self, texts: Sequence[str], name: str, threshold: float) -> None:
        self._texts = texts
        found = [keys for _, _, keys in _chunks(texts, name, threshold)]
        self._keys: Keys = np.concatenate(found) if found else np.empty((0, 1), np.uint32)
        self._orders = [np.argsort(keys, kind="stable").astype(np.int32) for keys in self._keys.T]
        self._sorted = [keys[order] for keys, order in zip(self._keys.T, self._orders, strict=True)]
        self.shingles = lru_cache(_AT_ONCE)(lambda place: word_shingles(texts[place]))

    def chunks(self) -> Iterator[tuple[int, list[str], Keys]]:
        """The texts themselves, as `_chunks` gives them."""
        for start in range(0, len(self._texts), _AT_ONCE):
            yield (
                start,
                list(self._texts[start : start + _AT_ONCE]),
                self._keys[start : start + _AT_ONCE],
            )

    def candidates(self, keys: Keys) -> list[tuple[int, list[int]]]:
        """For each row of keys for which there are any, its number and the places of texts that may
        be similar."""
        found: dict[int, set[int]] = defaultdict(set)
        for own, order, known in zip(keys.T, self._orders, self._sorted, strict=False):
            starts, ends = np.searchsorted(known, own, "left"), np.searchsorted(known, own, "right")
            for i in np.flatnonzero(ends > starts).tolist():
                found[i].update(order[starts[i] : ends[i]].tolist())
        return [(i, sorted(found[i])) for i in sorted(found)]

    def most_similar(self, text: str, places: Iterable[int]) -> tuple[float, int]:
        """The largest Jaccard similarity among these places, and the first that has it."""
        own = word_shingles(text)
        similarity, place = max((jaccard(own, self.shingles(j)), -j) for j in places)
        return similarity, -place
