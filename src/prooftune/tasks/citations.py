"""Citations in an answer: which passages it names.

An answer cites a passage in square brackets, by its number in the prompt (``[3]``, ``[1, 2]``) or
by its id (``[doc:12]``). Citations of passages that were not in the prompt are counted as unknown
and never listed as sources.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Numbers have up to three digits, because four digits are a year. Ids have a letter before the
# number, because without one they are a time of day.
_ID = r"(?:\d{1,3}|(?=[^\s\[\],;:]*[^\W\d])[^\s\[\],;]{1,200}:\d{1,9})"
_CITATION = re.compile(rf"\s*\[\s*({_ID}(?:\s*[,;]\s*{_ID})*)\s*\]")
_CUT_OFF = re.compile(r"\s*\[\s*\d{1,3}(?:\s*[,;]\s*\d{1,3})*\s*[,;]?\s*$")
"""A citation cut off at the end of the answer. It is dropped: its number may be incomplete."""


def parse_citations(text: str) -> tuple[str, list[str]]:
    """Split an answer into its text without citations, and the cited ids in order, each once.

    The ids are as written: `resolve_citations` maps them to passages.
    """
    ids: dict[str, None] = {}
    # Loop: removing the inner citation of "[[1]2]" leaves another one.
    while matches := _CITATION.findall(text):
        ids |= dict.fromkeys(part.strip() for group in matches for part in re.split("[,;]", group))
        text = _CITATION.sub("", text)
    while (shorter := _CUT_OFF.sub("", text)) != text:
        text = shorter
    return text.strip(), list(ids)


def resolve_citations(ids: Sequence[str], retrieved: Sequence[str]) -> tuple[list[str], list[str]]:
    """The cited passages, each once, and the ids that match no passage.

    Args:
        ids: from `parse_citations`; a number is a position in `retrieved`, starting at 1.
        retrieved: ids of the passages in the prompt, in order.
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
