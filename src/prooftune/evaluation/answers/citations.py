"""Citations in an answer: which passages it names, whether they are right, and whether it stands in any of them.

An answer names a passage in square brackets, by its number among the passages shown with the question (``[3]``,
``[1, 2]``) or by its id (``[doc:12]``). What was not shown is never a source, and is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from prooftune.evaluation.answers import squad
from prooftune.evaluation.answers.text import Columns
from prooftune.evaluation.metrics import Floats

SUPPORT = 0.7
"""Share of an answer's words that one passage must hold to support it."""

# A number of up to three digits: four are a year. An id has a letter before its number: without one it is a time of day.
_ID = r"(?:\d{1,3}|(?=[^\s\[\],;:]*[^\W\d])[^\s\[\],;]{1,200}:\d{1,9})"
_CITATION = re.compile(rf"\s*\[\s*({_ID}(?:\s*[,;]\s*{_ID})*)\s*\]")

_NAMES = ("n", "answered", "cited_answers", "with_gold", "precision_n", "precision", "recall", "unsupported", "citations",
          "unknown_citations")


def parse_citations(text: str) -> tuple[str, list[str]]:
    """The answer without its citations, and the ids that they name, in order and each once.

    The ids are as written: `sources` tells which of them name a passage that was shown.
    """
    ids: dict[str, None] = {}
    # Taking out the inner one of "[[1]2]" leaves another.
    while found := _CITATION.findall(text):
        ids |= dict.fromkeys(part.strip() for group in found for part in re.split("[,;]", group))
        text = _CITATION.sub("", text)
    return text.strip(), list(ids)


def sources(ids: Sequence[str], retrieved: Sequence[str]) -> tuple[list[str], list[str]]:
    """The retrieved passages that the ids name, each once, and the ids that name none.

    Args:
        ids: as `parse_citations` gives them: a number is a place in `retrieved`, from 1; all else an id in it.
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


@dataclass(frozen=True, slots=True)
class Cited:
    """One answer with its sources.

    Attributes:
        answer: without citations; empty for "no answer".
        sources: ids of the retrieved passages that it names.
        unknown: how many other ids it names.
        gold: ids of the passages that hold the answer; empty where they are not known.
        passages: texts of the retrieved passages.
    """

    answer: str
    sources: Sequence[str]
    unknown: int
    gold: Sequence[str]
    passages: Sequence[str]


def supported(answer: str, passages: Sequence[str], least: float = SUPPORT) -> bool:
    """Whether one of the passages holds enough of the answer's words.

    A lexical rule, which sees neither paraphrase nor negation: both texts are normalised as for SQuAD, English stop
    words are left out of the answer (unless nothing else is in it), and at least the share `least` of its words must
    be found in the same passage, as often as the answer has them.
    """
    words = squad.tokens(answer)
    wanted = Counter([w for w in words if w not in _stop_words()] or words)
    return any((wanted & Counter(squad.tokens(passage))).total() >= least * wanted.total() for passage in passages)


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(squad.normalise(word) for word in ENGLISH_STOP_WORDS)


def citation_columns(answers: Sequence[Cited], least: float = SUPPORT) -> Columns:
    """Per-example columns of the citation metrics, for `citation_rates`; of an example without an answer only ``n``."""
    rows = np.zeros((len(answers), len(_NAMES)))
    for row, one in zip(rows, answers, strict=True):
        row[:] = [1.0, *_counts(one, least)] if one.answer else [1.0] + [0.0] * (len(_NAMES) - 1)
    return Columns(_NAMES, rows, {"unsupported_rate": f"stop words:sklearn|words in one passage:{least:.0%}"})


def _counts(one: Cited, least: float) -> list[float]:
    cited = len(set(one.sources)) + one.unknown
    right = len(set(one.sources) & set(one.gold))
    with_gold = bool(one.gold)
    judged = with_gold and cited > 0
    return [1.0, float(cited > 0), float(with_gold), float(judged), right / cited if judged else 0.0,
            right / len(set(one.gold)) if with_gold else 0.0, float(not supported(one.answer, one.passages, least)),
            float(cited), float(one.unknown)]


def citation_rates(summed: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """The citation metrics by name, 0 to 1, each of the sums' leading shape; not-a-number where nothing counts.

    ``citation_precision``: share of an answer's citations that name a gold passage, a citation of what was not
    shown being wrong, mean over the answers that cite and whose gold passages are known. ``citation_recall``: share
    of the gold passages cited, mean over the answers whose gold passages are known, also those that cite nothing.
    ``cited_rate``: answers that cite anything. ``unsupported_rate``: answers that no retrieved passage supports
    (`supported`). ``unknown_citation_rate``: citations of what was not shown.

    Args:
        summed: sums of the columns, [..., c].
        names: `Columns.names`.
    """
    of = {name: summed[..., i] for i, name in enumerate(names)}
    shares = {
        "citation_precision": ("precision", "precision_n"), "citation_recall": ("recall", "with_gold"),
        "cited_rate": ("cited_answers", "answered"), "unsupported_rate": ("unsupported", "answered"),
        "unknown_citation_rate": ("unknown_citations", "citations"),
    }
    return {name: np.asarray(np.divide(of[part], of[whole], out=np.full(np.shape(of[part]), np.nan), where=of[whole] > 0))
            for name, (part, whole) in shares.items()}
