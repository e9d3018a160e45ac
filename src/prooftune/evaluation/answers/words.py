"""Words of texts in any script, as ROUGE compares them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

ASCII_WORD = re.compile(r"[a-z0-9]+")
LONGEST_UNSTEMMED = 3
"""rouge-score stems only words that are longer than this."""

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x323AF),  # Han, further extensions
)
"""Scripts that put no spaces between words: every letter is taken for a word."""


def is_unspaced(character: str) -> bool:
    """Whether a letter belongs to a script without spaces between words."""
    code = ord(character)
    return code > 0x0DFF and any(first <= code <= last for first, last in _UNSPACED)


def words(text: str, stem: Callable[[str], str] | None = None) -> list[str]:
    """Lower-cased words: runs of letters, digits and their marks, by Unicode; in scripts without
    spaces every letter with its marks.

    Of a text in ASCII they are rouge-score's, which knows no other letters than a to z.

    Args:
        text: any text.
        stem: Porter's stemmer, for words of ASCII letters.
    """
    found: list[str] = []
    joins = False  # whether a letter or digit goes on with the last word
    for character in unicodedata.normalize("NFC", text).lower():
        kind, unspaced = unicodedata.category(character)[0], is_unspaced(character)
        if kind not in "LNM":
            joins = False
        elif found and (kind == "M" or (joins and not unspaced)):
            found[-1] += character
        else:
            found.append(character)
            joins = not unspaced
    return [_stemmed(word, stem) for word in found] if stem else found


def _stemmed(word: str, stem: Callable[[str], str]) -> str:
    if len(word) > LONGEST_UNSTEMMED and ASCII_WORD.fullmatch(word):
        return stem(word)
    return word


def references_without_words(references: Sequence[Sequence[str]]) -> int:
    """How many examples have references, but none in which ROUGE finds a word (only signs)."""
    return sum(bool(accepted) and not any(words(r) for r in accepted) for accepted in references)


def unspaced_share(references: Sequence[Sequence[str]]) -> float:
    """Share of the examples with references of which one is in a script without spaces."""
    answered = [accepted for accepted in references if accepted]
    unspaced = sum(any(is_unspaced(c) for r in accepted for c in r) for accepted in answered)
    return unspaced / len(answered) if answered else 0.0
