"""When two texts are the same, and when they nearly are."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping

from prooftune.types import CONTEXT, Example
from prooftune.utils.text import normalize_words

SHINGLE_WORDS = 3
_BETWEEN = re.compile(r"(?<=\w)(?:[\s-]|_)+(?=\w)")


def dedup_key(inputs: Mapping[str, str]) -> str:
    """What two examples share exactly if they are the same text: `words` of all fields.

    A text without any word (emoticons, punctuation) is only the same as itself.
    """
    whole = "\n".join(inputs.values())
    return normalize_words(whole) or whole.strip()


def label_spelling_variants(labels: Iterable[str]) -> list[list[str]]:
    """The labels that differ in nothing but case, spaces and hyphens, together; as a rule they are
    meant as one. Other signs may be all that tells two apart (C++, C#)."""
    together: dict[str, list[str]] = {}
    for label in labels:
        together.setdefault(_BETWEEN.sub(" ", label.strip().casefold()), []).append(label)
    return [several for several in together.values() if len(several) > 1]


def example_dedup_key(example: Example) -> str:
    """What makes two examples the same: all their words; of a question its own, and whether its
    context is the same.

    Two questions about one text are different questions; that they share it is told apart
    (`audit`).
    """
    if example.references is None:
        return dedup_key(example.inputs)
    question = {name: text for name, text in example.inputs.items() if name != CONTEXT}
    context = normalize_words(example.inputs.get(CONTEXT, ""))
    return (
        f"{dedup_key(question)} {zlib.crc32(context.encode()):08x}"
        if context
        else dedup_key(question)
    )


def word_shingles(identity_: str) -> frozenset[str]:
    """The text's runs of three words; a shorter text is one shingle.

    The Jaccard similarity of two such sets is Broder's resemblance (On the resemblance and
    containment of documents, 1997).
    """
    parts = identity_.split(" ")
    return frozenset(
        " ".join(parts[i : i + SHINGLE_WORDS])
        for i in range(max(1, len(parts) - SHINGLE_WORDS + 1))
    )
