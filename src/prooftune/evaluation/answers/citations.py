"""Whether the passages that an answer cites are the right ones, and whether it stands in any of
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prooftune.evaluation.answers import squad
from prooftune.evaluation.answers.text import Columns
from prooftune.evaluation.intervals import UNIT, resampling_interval, wilson_interval
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups, resample
from prooftune.evaluation.score_types import (
    CitationScores,
    Figure,
)
from prooftune.recipe import Evaluation
from prooftune.types import Study, VariantResult
from prooftune.utils.files import read_json

SUPPORT = 0.7
"""Share of an answer's words that one passage must hold to support it."""

_FUNCTION_WORDS = """
    about after also and any are as at be because been before being both but by can could did do
    does during each either for from had has have he her his how i if in into is it its may
    might must of on or our shall she should so some such than that their them then there these
    they this those through to under until upon was we were what when where which while who whom
    whose why will with within would you your"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that are in every passage and support nothing. Longer lists of stop words hold
numbers and negations, on which an answer may hang."""

_NAMES = (
    "n",
    "answered",
    "cited_answers",
    "with_gold",
    "precision_n",
    "precision",
    "recall",
    "unsupported",
    "citations",
    "unknown_citations",
)

_RATES = {
    "citation_precision": ("precision", "precision_n"),
    "citation_recall": ("recall", "with_gold"),
    "cited_rate": ("cited_answers", "answered"),
    "unsupported_rate": ("unsupported", "answered"),
    "unknown_citation_rate": ("unknown_citations", "citations"),
}
"""Metric -> the columns of which it is the quotient."""


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


def supported(answer: str, passages: Sequence[str], minimum: float = SUPPORT) -> bool:
    """Whether one of the passages holds enough of the answer's words.

    A lexical rule, which sees no paraphrase: both texts are normalised as for SQuAD,
    `FUNCTION_WORDS` are left out of the answer (unless nothing else is in it), and at least the
    share `minimum` of its words must be found in the same passage, as often as the answer has them.
    """
    words = squad.tokens(answer)
    # `or words`: an answer such as "before" is compared by its function words.
    wanted = Counter([w for w in words if w not in FUNCTION_WORDS] or words)
    return any(
        (wanted & Counter(squad.tokens(passage))).total() >= minimum * wanted.total()
        for passage in passages
    )


def citation_columns(answers: Sequence[Cited], minimum: float = SUPPORT) -> Columns:
    """Per-example columns of the citation metrics, for `citation_rates`; of an example without an
    answer only ``n``."""
    rows = np.zeros((len(answers), len(_NAMES)))
    for row, answer in zip(rows, answers, strict=True):
        row[:] = (
            [1.0, *_counts(answer, minimum)] if answer.answer else [1.0] + [0.0] * (len(_NAMES) - 1)
        )
    rule = f"rule:words in one passage|least:{minimum:.0%}|function words:ignored"
    return Columns(_NAMES, rows, {"unsupported_rate": rule})


def _counts(answer: Cited, minimum: float) -> list[float]:
    # A source that is cited twice counts once.
    cited = len(set(answer.sources)) + answer.unknown
    right = len(set(answer.sources) & set(answer.gold))
    with_gold = bool(answer.gold)
    # Precision needs citations; without any, only recall is affected.
    judged = with_gold and cited > 0
    return [
        1.0,
        float(cited > 0),
        float(with_gold),
        float(judged),
        right / cited if judged else 0.0,
        right / len(set(answer.gold)) if with_gold else 0.0,
        float(not supported(answer.answer, answer.passages, minimum)),
        float(cited),
        float(answer.unknown),
    ]


def citation_rates(summed: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """The citation metrics by name, 0 to 1, each of the sums' leading shape; not-a-number where
    nothing counts.

    ``citation_precision``: share of an answer's citations that name a gold passage, a citation of
    what was not shown being wrong, mean over the answers that cite and whose gold passages are
    known. ``citation_recall``: share of the gold passages cited, mean over the answers whose gold
    passages are known, also those that cite nothing. ``cited_rate``: answers that cite anything.
    ``unsupported_rate``: answers that no retrieved passage supports (`supported`).
    ``unknown_citation_rate``: citations of what was not shown.

    Args:
        summed: sums of the columns, [..., c].
        names: `Columns.names`.
    """
    of = {name: summed[..., i] for i, name in enumerate(names)}
    return {
        name: np.asarray(
            np.divide(
                of[part], of[whole], out=np.full(np.shape(of[part]), np.nan), where=of[whole] > 0
            )
        )
        for name, (part, whole) in _RATES.items()
    }


def citation_counts(summed: Floats, names: Sequence[str]) -> dict[str, int]:
    """Of how many answers, or citations, each citation metric is the share, from sums [c]."""
    return {name: int(summed[names.index(whole)]) for name, (_, whole) in _RATES.items()}


def citation_figures(
    study: Study,
    result: VariantResult,
    outputs: Sequence[str],
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> CitationScores | None:
    """How good the citations are, with intervals; None where no passages were shown.

    Args:
        study: the questions.
        result: the variant's predictions, with its folder of passages.
        outputs: its final answers.
        settings: resamples and level of confidence.
        seed: of the resampling.
        groups: the groups of the test questions.
    """
    if not any(p.retrieved for p in result.test):
        return None
    shown = read_json(result.folder / "passages.json")
    answers = [
        Cited(
            output,
            [shown[i]["key"] for i in p.cited],
            p.unknown_citations,
            e.gold,
            [shown[i]["text"] for i in p.retrieved],
        )
        for output, p, e in zip(outputs, result.test, study.test, strict=True)
    ]
    columns = citation_columns(answers)
    # Ratios of sums: numerator and denominator are resampled together.
    (drawn,) = resample([columns.values], settings.resamples, seed, groups)
    samples = drawn.map(lambda summed: citation_rates(summed, columns.names))
    total = columns.values.sum(axis=0)
    counted = citation_counts(total, columns.names)
    rates = citation_rates(total, columns.names)

    def figure(name: str) -> Figure:
        value = float(rates[name])
        interval = resampling_interval(value, samples[name], settings.confidence, UNIT)
        # A mean of shares varies no more than a share of right and wrong.
        rows = (
            wilson_interval(round(value * counted[name]), counted[name], settings.confidence)
            if counted[name]
            else (interval.low, interval.high)
        )
        return {
            "value": value,
            "low": min(interval.low, rows[0]),
            "high": max(interval.high, rows[1]),
        }

    return {
        "answered": int(columns.values[:, 1].sum()),
        "signatures": columns.signatures,
        "citation_precision": figure("citation_precision"),
        "citation_recall": figure("citation_recall"),
        "cited_rate": figure("cited_rate"),
        "unsupported_rate": figure("unsupported_rate"),
        "unknown_citation_rate": figure("unknown_citation_rate"),
    }
