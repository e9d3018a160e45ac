"""Parts -> chunks of about the same size, cut where sentences and paragraphs end."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from prooftune.errors import UsageError
from prooftune.retrieval.types import Chunk, Document

CHUNK_WORDS, CHUNK_OVERLAP = 120, 20

_IDEOGRAPHS = "\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]{{1,40}}")
"""A run without spaces counts as a word for each 40 characters, a Chinese or Japanese character as
one."""

_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’»)\]]*$")


def split_document(
    document: Document, words: int = CHUNK_WORDS, overlap: int = CHUNK_OVERLAP
) -> list[Chunk]:
    """A document's chunks in their order; none spans two parts.

    A part of up to a quarter more than `words` stays whole. Cuts are made at the last paragraph end
    of the second half of a chunk, else at its last sentence end, else between two words; the next
    chunk begins with a sentence where one begins in the overlap.

    Args:
        document: as it was read.
        words: of a chunk, at most (a quarter more for the last one of a part).
        overlap: words that a chunk repeats of the one before, at most.

    Raises:
        UsageError: the sizes make no sense.
    """
    if words < 8 or not 0 <= overlap < words // 2:
        raise UsageError(
            f"chunks of {words} words that overlap by {overlap}: at least 8 words, and an overlap "
            "below half of them"
        )
    seen: Counter[str] = Counter()
    chunks = []
    for part in document.parts:
        for start, end in chunk_spans(part.text, words, overlap):
            text = part.text[start:end]
            seen[text] += 1
            key = "\0".join([document.id, str(seen[text]), text])
            chunks.append(
                Chunk(
                    hashlib.sha256(key.encode()).hexdigest()[:12],
                    document.id,
                    document.name,
                    part.page,
                    part.section,
                    start,
                    end,
                    text,
                    part.id,
                )
            )
    return chunks


def chunk_spans(text: str, words: int, overlap: int) -> list[tuple[int, int]]:
    """Characters from and to of each chunk of a text; every word is in one."""
    found = [match.span() for match in _WORD.finditer(text)]
    return [
        (found[first][0], found[last - 1][1])
        for first, last in _ranges(text, found, words, overlap)
    ]


def _ranges(
    text: str, found: Sequence[tuple[int, int]], words: int, overlap: int
) -> Iterator[tuple[int, int]]:
    """The first word of each chunk, and the one after its last."""
    n, first = len(found), 0
    # For each word, whether a sentence (1) or a paragraph (2) ends with it.
    ends = [_ends(text, found, i) for i in range(n)] if n > words + words // 4 else []
    while n - first > words + words // 4:
        window = range(first + words, first + words // 2, -1)
        last = (
            next((i for i in window if ends[i - 1] == 2), None)
            or next((i for i in window if ends[i - 1]), None)
            or first + words
        )
        yield first, last
        begin = last - overlap
        first = next((i for i in range(begin, last) if ends[i - 1]), begin) if overlap else last
    if first < n:
        yield first, n


def _ends(text: str, found: Sequence[tuple[int, int]], i: int) -> int:
    if i + 1 == len(found):
        return 2
    between = text[found[i][1] : found[i + 1][0]]
    if between.count("\n") > 1:
        return 2
    ended = _SENTENCE_END.search(text, found[i][0], found[i][1])
    # Without a space it is a number or a name, but in Chinese and Japanese.
    return int(bool(ended) and (bool(between) or text[found[i][1] - 1] in "。！？"))
