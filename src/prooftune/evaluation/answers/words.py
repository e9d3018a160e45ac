"""Words as ROUGE compares them, and what ROUGE cannot see."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from prooftune.utils.words import is_unspaced, words

_ASCII_WORD = re.compile(r"[a-z0-9]+")
LONGEST_UNSTEMMED = 3
"""rouge-score stems only words that are longer than this."""


def stemmed_words(text: str, stem: Callable[[str], str]) -> list[str]:
    """The words of a text; of a text in ASCII those of rouge-score.

    Args:
        text: any text.
        stem: Porter's stemmer, for words of ASCII letters and digits.
    """
    return [
        stem(word) if len(word) > LONGEST_UNSTEMMED and _ASCII_WORD.fullmatch(word) else word
        for word in words(text)
    ]


def references_without_words(references: Sequence[Sequence[str]]) -> int:
    """How many examples have references, but none in which ROUGE finds a word (only signs)."""
    return sum(bool(accepted) and not any(words(r) for r in accepted) for accepted in references)


def unspaced_share(references: Sequence[Sequence[str]]) -> float:
    """Share of the examples with references of which one is in a script without spaces."""
    answered = [accepted for accepted in references if accepted]
    unspaced = sum(any(is_unspaced(c) for r in accepted for c in r) for accepted in answered)
    return unspaced / len(answered) if answered else 0.0
