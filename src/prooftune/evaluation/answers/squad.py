"""Exact match and F1 of short answers by the rules of SQuAD 2.0 (Rajpurkar et al. 2018, arXiv
1806.03822).

They give the figures of the official evaluation script (``evaluate-v2.0.py``), also where its rules
surprise: "well-known" is one word without its hyphen, "A.N." is an article, and an empty prediction
is no different from "The".
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.metrics import Floats
from prooftune.utils.words import is_unspaced, words

Bools = NDArray[np.bool_]

# ASCII only, as in the official script: curly quotes and Chinese full stops stay.
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """Lower-cased, without ASCII punctuation, without English articles, words parted by single
    spaces."""
    # The script's order: punctuation goes first, which makes "A.N." the article "an".
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def tokens(text: str) -> list[str]:
    """The words of a normalised text.

    The official script knows no words without spaces, so that a Chinese answer is right or wrong as
    a whole. As in MLQA's script (Lewis et al. 2020, arXiv 1910.07475), every letter counts there.
    """
    split = normalise(text).split()
    if text.isascii():
        return split
    return [
        word for part in split for word in (words(part) if any(map(is_unspaced, part)) else [part])
    ]


def exact(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction is one of the references after normalisation, else 0; without references,
    if it is empty."""
    return float(normalise(prediction) in {normalise(r) for r in _standards(references)})


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words that prediction and reference share, 0 to 1, for the best of the references.

    Words count as often as they occur. Against an empty reference only an empty prediction scores,
    and then 1.
    """
    words = tokens(prediction)
    return max(overlap(words, tokens(reference)) for reference in _standards(references))


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of two bags of words, 0 to 1; of two empty ones 1."""
    if not first or not second:
        return float(not first and not second)
    common = (Counter(first) & Counter(second)).total()
    if common == 0:
        return 0.0
    # Through precision and recall as the script has it, so that not even the last bit differs.
    precision, recall = common / len(first), common / len(second)
    return 2 * precision * recall / (precision + recall)


def _standards(references: Sequence[str]) -> Sequence[str]:
    """What a prediction is held against: references of which nothing is left do not count beside
    others."""
    return [r for r in references if normalise(r)] or [""]


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-example scores.

    Attributes:
        exact, f1: 0 to 1, [n].
        has_answer: whether the question has reference answers, [n].
    """

    exact: Floats
    f1: Floats
    has_answer: Bools


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Score predictions against the references of their examples (none: the question has no
    answer)."""
    pairs = list(zip(predictions, references, strict=True))
    return Scores(
        np.array([exact(p, r) for p, r in pairs], dtype=np.float64),
        np.array([f1(p, r) for p, r in pairs], dtype=np.float64),
        np.array([len(r) > 0 for _, r in pairs], dtype=np.bool_),
    )


@dataclass(frozen=True, slots=True)
class Threshold:
    """The best no-answer threshold and how the score depends on it.

    Attributes:
        value: a question is answered where its no-answer score is at most this.
        score: mean score over all examples that the script's search reports for it, 0 to 1.
        thresholds, scores: the curve: mean score when that threshold is applied, [m] each,
            thresholds ascending; the first answers the fewest questions, the last all.
    """

    value: float
    score: float
    thresholds: Floats
    scores: Floats


def best_threshold(
    no_answer: Floats,
    scores: Floats,
    has_answer: Bools,
    empty: Bools | None = None,
    points: int = 200,
) -> Threshold:
    """The threshold with the best mean score, found as the official script finds it.

    The search goes through the examples from the surest to the least sure answer, in their order
    where they are equally sure, and keeps the first best. It may stop between equally sure
    examples, where no threshold can part them; the curve has only what a threshold can reach.

    Args:
        no_answer: probability, or any score that is higher where it is surer, that there is no
            answer, [n].
        scores: exact match or F1 of the best answer that is not empty, [n]; looked at for
            answerable questions only.
        has_answer: whether the question has an answer, [n].
        empty: where the best answer is empty all the same, [n]; None: nowhere.
        points: most points of the curve.

    Raises:
        ValueError: no examples, or a score that is not a number.
    """
    if len(scores) == 0 or np.isnan(no_answer).any() or np.isnan(scores).any():
        raise ValueError("a threshold needs examples, and a number for each")
    n = len(scores)
    harmless = np.zeros(n, dtype=np.bool_) if empty is None else empty
    # The script's sum: with nothing answered all unanswerable questions are right, and an answer to
    # one of them takes a point back.
    gain = np.where(has_answer, scores, np.where(harmless, 0.0, -1.0))
    order = np.argsort(no_answer, kind="stable")
    reached = np.cumsum(np.concatenate([[float((~has_answer).sum())], gain[order]])) / n
    nothing = _below(no_answer)
    at = np.concatenate([[nothing], no_answer[order]])
    best = int(reached.argmax())
    # Examples with equal scores fall on the same side of any threshold.
    ends = np.flatnonzero(np.append(at[1:] != at[:-1], True))
    shown = ends[
        # Evenly spaced over the questions, so the curve has its points where the questions are.
        np.unique(np.linspace(0, len(ends) - 1, min(points, len(ends))).round().astype(np.int64))
    ]
    return Threshold(float(at[best]), float(reached[best]), at[shown], reached[shown])


def _below(no_answer: Floats) -> float:
    """A threshold at which nothing is answered: the script's 0 for probabilities, else just below
    the lowest score."""
    lowest = float(no_answer.min())
    return 0.0 if lowest >= 0 else float(np.nextafter(lowest, -np.inf))


def apply_threshold(
    no_answer: Floats, scores: Floats, has_answer: Bools, threshold: float
) -> Floats:
    """Per-example scores when questions whose no-answer score is above the threshold are left
    unanswered, [n]."""
    return np.where(no_answer > threshold, np.where(has_answer, 0.0, 1.0), scores)
