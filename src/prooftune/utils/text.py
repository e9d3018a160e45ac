"""Normalising text so that copies which differ only in formatting compare equal."""

from __future__ import annotations

import unicodedata


class _WordTable(dict[int, str]):
    """Translation table that keeps letters, digits and combining marks and maps the rest to spaces.

    It fills itself on first use of a character, since Unicode has too many to list up front.
    """

    def __missing__(self, code: int) -> str:
        is_word_character = unicodedata.category(chr(code))[0] in "LNM"
        self[code] = chr(code) if is_word_character else " "
        return self[code]


_WORD_TABLE = _WordTable()


def normalize_words(text: str) -> str:
    """Return the words of a text in lower case, separated by single spaces.

    Case, punctuation, symbols and spacing are dropped (Unicode NFKC, case-folded), so a reformatted
    copy normalises to the same string.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_WORD_TABLE).split())
