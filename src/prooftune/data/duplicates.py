"""Texts that stand in the data more than once: exactly, or nearly.

Near-duplicates are found by locality-sensitive hashing of MinHash signatures (Broder 1997; Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3). Each candidate is then checked by the true Jaccard similarity
of the two sets of shingles, so none is reported wrongly. Of pairs that are just as similar as the threshold about one
in thirty is missed, of more similar ones fewer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prooftune.data.text import shingles
from prooftune.progress import track

PERMUTATIONS = 128


_LONG = 5_000
"""Texts whose signatures take a second or so, which is worth a line."""


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
    hashed = {name: _Hashed(texts[name], name) for name in sorted({name for pair in pairs for name in pair})}
    found = {}
    for first, second in pairs:
        a, b, copies = hashed[first], hashed[second], set(texts[second])
        index = b.index(threshold)
        best = []
        for i, signature in enumerate(a.signatures):
            if not texts[first][i] or texts[first][i] in copies:
                continue
            similar = max(((jaccard(a.sets[i], b.sets[j]), -j) for j in index.query(signature)), default=(0.0, 0))
            if similar[0] >= threshold:
                best.append((i, -similar[1]))
        found[first, second] = best
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
    hashed = _Hashed(distinct, "all")
    index = hashed.index(threshold)
    for i, signature in enumerate(hashed.signatures):
        for j in index.query(signature):
            if j < i and jaccard(hashed.sets[i], hashed.sets[j]) >= threshold:
                yield i, j


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over that of the union."""
    return len(a & b) / len(a | b)


class _Hashed:
    """Texts as sets of shingles with their MinHash signatures."""

    def __init__(self, texts: Sequence[str], name: str) -> None:
        from datasketch import MinHash

        self.sets = [shingles(text) for text in texts]
        # Only the candidates depend on the hash, so the fastest of the standard library will do.
        made = MinHash.generator(([s.encode() for s in one] for one in self.sets), num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        shown = f"Comparing {name} texts" if len(self.sets) >= _LONG else None
        self.signatures: list[Any] = list(track(made, shown, len(self.sets)))

    def index(self, threshold: float) -> Any:
        from datasketch import MinHashLSH

        # Even weights would miss two of three pairs that are as similar as the threshold; a candidate too many
        # costs only its check. Above 0.95 there are too few bands to choose from.
        index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=PERMUTATIONS, weights=(0.02, 0.98))
        for i, signature in enumerate(self.signatures):
            index.insert(i, signature)
        return index
