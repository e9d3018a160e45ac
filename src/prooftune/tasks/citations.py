"""Citations in an answer: which passages it names.

An answer names a passage in square brackets, by its number among the passages shown with the
question (``[3]``, ``[1, 2]``) or by its id (``[doc:12]``). What was not shown is never a source,
and is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# A number of up to three digits: four are a year. An id has a letter before its number: without one
# it is a time of day.
_ID = r"(?:\d{1,3}|(?=[^\s\[\],;:]*[^\W\d])[^\s\[\],;]{1,200}:\d{1,9})"
_CITATION = re.compile(rf"\s*\[\s*({_ID}(?:\s*[,;]\s*{_ID})*)\s*\]")
_CUT = re.compile(r"\s*\[\s*\d{1,3}(?:\s*[,;]\s*\d{1,3})*\s*[,;]?\s*$")
"""One that an answer broke off in: it names nothing, since its number may be half of one."""


def parse_citations(text: str) -> tuple[str, list[str]]:
    """The answer without its citations, one that it broke off in included, and the ids that they
    name, in order and each once.

    The ids are as written: `sources` tells which of them name a passage that was shown.
    """
    ids: dict[str, None] = {}
    # Taking out the inner one of "[[1]2]" leaves another.
    while found := _CITATION.findall(text):
        ids |= dict.fromkeys(part.strip() for group in found for part in re.split("[,;]", group))
        text = _CITATION.sub("", text)
    while (cut := _CUT.sub("", text)) != text:
        text = cut
    return text.strip(), list(ids)


def resolve_citations(ids: Sequence[str], retrieved: Sequence[str]) -> tuple[list[str], list[str]]:
    """The retrieved passages that the ids name, each once, and the ids that name none.

    Args:
        ids: as `parse_citations` gives them: a number is a place in `retrieved`, from 1; all else
            an id in it.
        retrieved: ids of the passages shown, in the order of their numbers.
    """
    named: dict[str, None] = {}
    unknown = []
    for cited in ids:
        if cited.isdecimal() and 1 <= int(cited) <= len(retrieved):
            named[retrieved[int(cited) - 1]] = None
        elif cited in retrieved and not cited.isdecimal():
            named[cited] = None
        else:
            unknown.append(cited)
    return list(named), unknown
