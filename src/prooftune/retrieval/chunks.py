"""Splits documents into chunks of similar size at sentence and paragraph ends."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import regex

from prooftune.errors import UsageError
from prooftune.retrieval.types import Chunk, Document

CHUNK_WORDS, CHUNK_OVERLAP = 120, 20

_IDEOGRAPHS = "\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SYLLABIC = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese and Khmer, whose words have about five letters."""
_WORD = regex.compile(
    # `regex` and not `re`, which has no \p{M} (marks, such as Thai vowels).
    rf"[{_IDEOGRAPHS}]|(?:[{_SYLLABIC}]\p{{M}}*){{1,5}}|[^\s{_IDEOGRAPHS}{_SYLLABIC}]{{1,40}}"
)
"""A word: up to 40 characters without spaces; in scripts without spaces a single Chinese or
Japanese character, or five letters with their marks."""

_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’»)\]]*$")


def split_document(
    document: Document, words: int = CHUNK_WORDS, overlap: int = CHUNK_OVERLAP
) -> list[Chunk]:
    """Split a document into chunks; none spans two parts.

    A part of at most ``1.25 * words`` words is one chunk. A chunk ends at the last paragraph end
    of its second half, else at the last sentence end there, else between two words. The next chunk
    starts at a sentence start within the overlap, if there is one.

    Args:
        document: the document.
        words: maximum words per chunk (a quarter more for the last chunk of a part).
        overlap: maximum words shared with the previous chunk.

    Raises:
        UsageError: the sizes are out of range.
    """
    if words < 8 or not 0 <= overlap < words // 2:
        raise UsageError(
            f"chunks of {words} words with an overlap of {overlap}: chunks need at least 8 words, "
            "and an overlap below half of that"
        )
    seen: Counter[str] = Counter()
    chunks = []
    for part in document.parts:
        for start, end in chunk_spans(part.text, words, overlap):
            text = part.text[start:end]
            seen[text] += 1
            # The occurrence is part of the key: a text that a document repeats has several chunks.
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
    """(start, end) characters of each chunk of a text; the chunks cover every word."""
    word_spans = [match.span() for match in _WORD.finditer(text)]
    return [
        (word_spans[first][0], word_spans[last - 1][1])
        for first, last in _word_ranges(text, word_spans, words, overlap)
    ]


def _word_ranges(
    text: str, word_spans: Sequence[tuple[int, int]], words: int, overlap: int
) -> Iterator[tuple[int, int]]:
    """(first, last + 1) word indices of each chunk."""
    n, first = len(word_spans), 0
    # For each word, whether a sentence (1) or a paragraph (2) ends with it.
    boundaries = (
        [_boundary(text, word_spans, i) for i in range(n)] if n > words + words // 4 else []
    )
    # A short rest joins the last chunk, instead of becoming a passage of a few words.
    while n - first > words + words // 4:
        # From the largest chunk down to half of it.
        window = range(first + words, first + words // 2, -1)
        last = (
            next((i for i in window if boundaries[i - 1] == 2), None)
            or next((i for i in window if boundaries[i - 1]), None)
            or first + words
        )
        yield first, last
        overlap_start = last - overlap
        first = (
            # Without a sentence start there, the overlap begins inside a sentence.
            next((i for i in range(overlap_start, last) if boundaries[i - 1]), overlap_start)
            if overlap
            else last
        )
    if first < n:
        yield first, n


def _boundary(text: str, word_spans: Sequence[tuple[int, int]], i: int) -> int:
    if i + 1 == len(word_spans):
        return 2
    gap = text[word_spans[i][1] : word_spans[i + 1][0]]
    if gap.count("\n") > 1:
        return 2
    ended = _SENTENCE_END.search(text, word_spans[i][0], word_spans[i][1])
    # No space after the mark: a number or a name, except in Chinese and Japanese.
    return int(bool(ended) and (bool(gap) or text[word_spans[i][1] - 1] in "。！？"))
