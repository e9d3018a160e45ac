"""Citations in an answer: numbers in square brackets that name the passages shown with the question."""

from __future__ import annotations

import re

_CITATION = re.compile(r"\s*\[\s*(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\s*\]")


def parse_citations(text: str) -> tuple[str, list[int]]:
    """The answer without its citations, and the numbers cited, in order and each once.

    ``[2]`` and ``[1, 3]`` are citations. Whether the numbers name anything that was shown is for the caller to check.
    """
    numbers = [int(n) for found in _CITATION.findall(text) for n in re.findall(r"\d+", found)]
    return _CITATION.sub("", text).strip(), list(dict.fromkeys(numbers))
