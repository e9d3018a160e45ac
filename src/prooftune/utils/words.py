"""Words of texts in any script: the tokenisation that audit, search and overlap metrics share.

Words are runs of letters, digits and their marks (Unicode's general categories L, N and M). Scripts
without spaces between words have one word per letter: Han, Hiragana, Katakana, and the scripts of
line-breaking class SA (UAX 14), which are Thai, Lao, Khmer, Burmese and their relatives. Words of
ASCII texts are those of rouge-score.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import regex

_ASCII = {code: chr(code) if chr(code).isalnum() else " " for code in range(128)}

# Inside a word these change only how it looks. U+200B separates words, so it is not among them.
_IGNORABLE = dict.fromkeys(
    [
        0x00AD,  # soft hyphen
        *range(0x200C, 0x2010),  # joiners and directions
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xFE00, 0xFE10),  # variation selectors
        0xFEFF,
        *range(0xE0100, 0xE01F0),
    ]
)

_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{lb=SA}]&&\p{L}]"
_PATTERN = (
    rf"(?P<unspaced>(?:{_UNSPACED}\p{{M}}*)+)"
    rf"|[[\p{{L}}\p{{N}}]--{_UNSPACED}][[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]*"
)


@lru_cache(maxsize=1)
def _patterns() -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    """A word or a run of unspaced letters; a single unspaced letter with its marks."""
    import regex

    flags = regex.VERSION1  # set operations
    return regex.compile(_PATTERN, flags), regex.compile(rf"{_UNSPACED}\p{{M}}*", flags)


def words(text: str) -> list[str]:
    """The words of a text in order, NFKC-normalised and case-folded."""
    if text.isascii():
        return text.lower().translate(_ASCII).split()
    return [word for segment in segments(text) for word in segment]


def segments(text: str) -> Iterator[list[str]]:
    """The words of a text, where letters of unspaced scripts are in one list as long as nothing
    separates them; every other word is in a list of its own."""
    if text.isascii():
        yield from ([word] for word in words(text))
        return
    pattern, letter = _patterns()
    # Ignorable characters first, since they keep a letter and its mark from being composed.
    folded = unicodedata.normalize("NFKC", text.translate(_IGNORABLE)).casefold()
    for match in pattern.finditer(folded):
        yield letter.findall(match[0]) if match["unspaced"] else [match[0]]


def normalize_words(text: str) -> str:
    """The words of a text, separated by single spaces.

    Case, punctuation, symbols and spacing are dropped, so a reformatted copy normalises to the same
    string.
    """
    return " ".join(words(text))


def is_unspaced(character: str) -> bool:
    """Whether a letter belongs to a script without spaces between words."""
    return not character.isascii() and bool(_patterns()[1].fullmatch(character))
