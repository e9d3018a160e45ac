"""When two texts are the same, and when they nearly are."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping

from prooftune.types import Example

WORDS_PER_SHINGLE = 3
_BETWEEN = re.compile(r"(?<=\w)(?:[\s-]|_)+(?=\w)")


class _Words(dict[int, str]):
    """Translation table that keeps letters, digits and combining marks and turns the rest into
    spaces."""

    def __missing__(self, code: int) -> str:
        kept = chr(code) if unicodedata.category(chr(code))[0] in "LNM" else " "
        self[code] = kept
        return kept


_WORDS = _Words()


def words(text: str) -> str:
    """The text's words in lower case, one space between them: what stays when a copy is
    reformatted.

    Case, punctuation, symbols and spacing are dropped (Unicode NFKC, case-folded).
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_WORDS).split())


def identity(inputs: Mapping[str, str]) -> str:
    """What two examples share exactly if they are the same text: `words` of all fields.

    A text without any word (emoticons, punctuation) is only the same as itself.
    """
    whole = "\n".join(inputs.values())
    return words(whole) or whole.strip()


def alike(labels: Iterable[str]) -> list[list[str]]:
    """The labels that differ in nothing but case, spaces and hyphens, together; as a rule they are
    meant as one. Other signs may be all that tells two apart (C++, C#)."""
    together: dict[str, list[str]] = {}
    for label in labels:
        together.setdefault(_BETWEEN.sub(" ", label.strip().casefold()), []).append(label)
    return [several for several in together.values() if len(several) > 1]


def compared(example: Example) -> str:
    """What makes two examples the same: all their words; of a question its own, and whether its
    context is the same.

    Two questions about one text are different questions; that they share it is told apart
    (`audit`).
    """
    if example.references is None:
        return identity(example.inputs)
    question = {name: text for name, text in example.inputs.items() if name != "context"}
    context = words(example.inputs.get("context", ""))
    return (
        f"{identity(question)} {zlib.crc32(context.encode()):08x}"
        if context
        else identity(question)
    )


def shingles(identity_: str) -> frozenset[str]:
    """The text's runs of three words; a shorter text is one shingle.

    The Jaccard similarity of two such sets is Broder's resemblance (On the resemblance and
    containment of documents, 1997).
    """
    parts = identity_.split(" ")
    return frozenset(
        " ".join(parts[i : i + WORDS_PER_SHINGLE])
        for i in range(max(1, len(parts) - WORDS_PER_SHINGLE + 1))
    )
