"""Texts that stand in the data more than once: exactly, or nearly.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997; Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3). Each candidate is then checked by the true Jaccard similarity
of the two sets of shingles, so none is reported wrongly. Of pairs that are just as similar as the threshold about one
in thirty is missed, of more similar ones fewer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from prooftune.data.text import shingles
from prooftune.progress import bar

PERMUTATIONS = 128
_LONG = 5_000
"""Texts whose signatures take a second or so, which is worth a line."""
_AT_ONCE = 1_000


def repeated(texts: Iterable[str]) -> list[int]:
    """Places of the texts that stand there more than once, in order. What is held meanwhile is a digest of each; two that differ
    and share one, of which there is a chance of one in 37 million among a million texts, are named too."""
    digests = np.fromiter((int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts), np.uint64)
    found, counts = np.unique(digests, return_counts=True)
    places: list[int] = np.flatnonzero(np.isin(digests, found[counts > 1])).tolist()
    return places


def exact(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """For each text of `first` that also stands in `second`, its index and that of its first copy there.

    Empty texts are not copies of each other.
    """
    places: dict[str, int] = {}
    for i, text in enumerate(second):
        places.setdefault(text, i)
    return [(i, places[text]) for i, text in enumerate(first) if text and text in places]


def near(
    texts: Mapping[str, Sequence[str]], pairs: Sequence[tuple[str, str]], threshold: float
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """For pairs of splits, the texts of the first that nearly, but not exactly, stand in the second.

    Args:
        texts: split -> identities (`text.identity`).
        pairs: (first, second) splits.
        threshold: least Jaccard similarity.

    Returns:
        For each pair, (index in first, index in second): for each text found, the most similar one.
    """
    # Of these all is held; the others, above all a large training set, are gone through.
    held = {name: _Held(texts[name], name, threshold) for name in sorted({second for _, second in pairs})}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {pair: [] for pair in pairs}
    for first in dict.fromkeys(first for first, _ in pairs):
        others = {second: set(texts[second]) for one, second in pairs if one == first}
        hashed = held[first].hashed if first in held else _hashed(texts[first], first)
        for i, (text, own) in enumerate(zip(texts[first], hashed, strict=True)):
            for second, copies in others.items():
                if not text or text in copies:
                    continue
                similarity, place = held[second].most_similar(own)
                if similarity >= threshold:
                    found[first, second].append((i, place))
    return found


def families(texts: Sequence[str], threshold: float | None) -> list[int]:
    """A number for each text, the same for texts that are duplicates of each other, also through others.

    Args:
        texts: identities (`text.identity`).
        threshold: least Jaccard similarity of near-duplicates; None: exact ones only.
    """
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    if threshold is None:
        return [first[text] for text in texts]
    distinct = list(first)
    parent = list(range(len(distinct)))
    for i, j in _alike(distinct, threshold):
        parent[_root(parent, i)] = _root(parent, j)
    family = {text: _root(parent, i) for i, text in enumerate(distinct)}
    return [family[text] for text in texts]


def _alike(distinct: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    held = _Held(distinct, "all", threshold)
    for i, own in enumerate(held.hashed):
        for j in held.candidates(own):
            if j < i and jaccard(own.shingles, held.hashed[j].shingles) >= threshold:
                yield i, j


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over that of the union."""
    return len(a & b) / len(a | b)


@dataclass(frozen=True, slots=True)
class _Hashed:
    """A text as its set of shingles, with their MinHash signature."""

    shingles: frozenset[str]
    signature: Any


def _hashed(texts: Sequence[str], name: str) -> Iterator[_Hashed]:
    """The texts one by one; few are held at a time."""
    from datasketch import MinHash

    with bar(f"Comparing {name} texts" if len(texts) >= _LONG else None, len(texts)) as shown:
        for start in range(0, len(texts), _AT_ONCE):
            sets = [shingles(text) for text in texts[start : start + _AT_ONCE]]
            # Only the candidates depend on the hash, so the fastest of the standard library will do.
            made = MinHash.generator(([s.encode() for s in one] for one in sets), num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
            yield from map(_Hashed, sets, made)
            shown.advance(0, len(sets))  # type: ignore[arg-type]


class _Held:
    """Texts among which similar ones are looked for."""

    def __init__(self, texts: Sequence[str], name: str, threshold: float) -> None:
        from datasketch import MinHashLSH

        self.hashed = list(_hashed(texts, name))
        # Even weights would miss two of three pairs that are as similar as the threshold; a candidate too many
        # costs only its check. Above 0.95 there are too few bands to choose from.
        self._index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=PERMUTATIONS, weights=(0.02, 0.98))
        for i, one in enumerate(self.hashed):
            self._index.insert(i, one.signature)

    def candidates(self, other: _Hashed) -> Iterable[int]:
        """Places of texts that may be similar."""
        found: list[int] = self._index.query(other.signature)
        return found

    def most_similar(self, other: _Hashed) -> tuple[float, int]:
        """The largest Jaccard similarity found, and the first place that has it; (0, 0) where none is like it."""
        similarity, place = max(((jaccard(other.shingles, self.hashed[j].shingles), -j) for j in self.candidates(other)),
                                default=(0.0, 0))
        return similarity, -place
