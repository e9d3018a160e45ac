"""Dedup keys, shingles and label spellings: when two texts or labels count as the same."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from prooftune.types import CONTEXT, Example
from prooftune.utils.words import normalize_words

SHINGLE_WORDS = 3
SHINGLE_CHARACTERS = 4
SHORT_WORDS = 30
"""Texts of up to this many words are compared by character n-grams: one changed word is in three
word 3-grams, which is most of a short text."""
LONG_WORDS = 15
"""Texts of this many words or more are compared by word 3-grams. The two ranges overlap, so that a
text and its slightly longer copy are always compared by the same n-grams."""
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
# "RT @name:" or "@name"; a letter before the @ makes it an e-mail address, which stays.
_MENTION = re.compile(r"(?:\bRT\s+)?(?<!\w)@\w+:?")
_ACCENTS = re.compile(r"[\u0300-\u036f]")
"""Marks on Latin, Greek and Cyrillic letters; in other scripts marks are vowels."""
# Between word characters only, so that "C" and "C -" stay two labels.
_WORD_SEPARATORS = re.compile(r"(?<=\w)(?:[\s-]|_)+(?=\w)")


def dedup_key(inputs: Mapping[str, str]) -> str:
    """Return the key that exact duplicates share: the normalised words of all input fields.

    A text without words (emoticons, punctuation) is compared as it is.
    """
    text = "\n".join(inputs.values())
    return normalize_words(text) or text.strip()


def example_dedup_key(example: Example) -> str:
    """Return the dedup key of an example: all its words; for a question, its own and its context.

    Two questions about the same context are different examples; the audit reports shared contexts
    separately (`context_leakage`).
    """
    if example.references is None:
        return dedup_key(example.inputs)
    question = {name: text for name, text in example.inputs.items() if name != CONTEXT}
    context = normalize_words(example.inputs.get(CONTEXT, ""))
    # A checksum keeps the long context out of the shingles of the question.
    return (
        f"{dedup_key(question)} {zlib.crc32(context.encode()):08x}"
        if context
        else dedup_key(question)
    )


def near_key(example: Example) -> str:
    """Return the key by which near-duplicates are compared: the dedup key without links, mentions
    and accents, which hide copies of short texts.

    A text of nothing else is compared as it is.
    """
    stripped = {name: _strip(text) for name, text in example.inputs.items()}
    if not normalize_words(" ".join(stripped.values())):
        return example_dedup_key(example)
    return example_dedup_key(replace(example, inputs=stripped))


def _strip(text: str) -> str:
    text = _MENTION.sub(" ", _LINK.sub(" ", text))
    # NFD writes é as e and a mark, which can then be removed.
    return _ACCENTS.sub("", unicodedata.normalize("NFD", text))


def word_shingles(key: str) -> frozenset[str]:
    """Return the word 3-grams of a normalised text; a shorter text is a single shingle.

    The Jaccard similarity of two such sets is Broder's resemblance (On the resemblance and
    containment of documents, 1997).
    """
    words = key.split(" ")
    return frozenset(
        " ".join(words[i : i + SHINGLE_WORDS])
        for i in range(max(1, len(words) - SHINGLE_WORDS + 1))
    )


def character_shingles(key: str) -> frozenset[str]:
    """Return the character 4-grams of a normalised text; a shorter text is a single shingle."""
    return frozenset(
        key[i : i + SHINGLE_CHARACTERS] for i in range(max(1, len(key) - SHINGLE_CHARACTERS + 1))
    )


def label_spelling_variants(labels: Iterable[str]) -> list[list[str]]:
    """Group the labels that differ only in case, spaces and hyphens; single labels are left out.

    Characters without width and the ways to write an accent count as no difference, either. Such
    labels are usually meant as one. Other characters can be the only difference between two
    labels (C++, C#).
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        visible = "".join(c for c in label if unicodedata.category(c) != "Cf")
        composed = unicodedata.normalize("NFC", visible)
        key = _WORD_SEPARATORS.sub(" ", composed.strip().casefold())
        groups.setdefault(key, []).append(label)
    return [group for group in groups.values() if len(group) > 1]
