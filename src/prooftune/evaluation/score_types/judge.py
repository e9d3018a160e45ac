"""The judge's part of ``scores.json``."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class FailureCounts(TypedDict):
    """Failed judgements: number, rate with its Wilson interval, and count by reason."""

    failed: int
    failure_rate: float | None
    failure_low: float | None
    failure_high: float | None
    reasons: dict[str, int]


class HumanAgreement(TypedDict):
    """Agreement of the judge with people on one criterion (`judge.human.Agreement`)."""

    kappa: float | None
    low: float | None
    high: float | None
    exact: float
    n: int


class CriterionSummary(FailureCounts):
    """Mean score on one criterion with its interval; None without any judgement.

    ``n`` counts valid judgements, ``scores`` the answers by score. ``human`` has the fields of
    `human.Agreement`; None where no answer was scored by both.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    scores: dict[str, int]
    human: NotRequired[HumanAgreement | None]


class JudgeSummary(TypedDict):
    """Scores of one variant by criterion; ``rows`` of ``of`` answers were judged, in so many
    ``groups`` (None: each stands alone)."""

    model: str
    scale: list[int]
    rows: int
    of: int
    seed: int
    confidence: float
    resamples: int
    groups: NotRequired[int | None]
    criteria: dict[str, CriterionSummary]


class ScoreDifference(TypedDict):
    """Paired difference of two variants' mean scores with its interval.

    ``n`` pairs were judged in both and ``left_out`` pairs were not. ``higher`` and ``lower`` count
    answers of the first variant with a higher and a lower score; ``p`` is of the test that
    flips the signs of differences, of whole groups where there are any; the interval does not
    contradict it.
    """

    difference: float | None
    low: float | None
    high: float | None
    n: int
    left_out: int
    higher: int
    lower: int
    p: float


class PreferenceSummary(FailureCounts):
    """Pairwise preferences, from the first variant's point of view.

    ``n`` is the sum of wins, losses and ties, ``net`` is (wins - losses) / n with an
    interval that holds for all pairs of a study together, and ``p`` is of the sign test on wins and
    losses, exact or by groups. ``asked_twice`` counts pairs
    with two verdicts and ``consistent`` is the share of these on which both orders agree, with its
    Wilson interval. ``first_place`` and ``second_place`` count verdicts by position.
    """

    model: str
    rows: int
    of: int
    seed: int
    confidence: float
    resamples: int
    groups: NotRequired[int | None]
    wins: int
    losses: int
    ties: int
    n: int
    net: float | None
    low: float | None
    high: float | None
    p: float
    asked_twice: int
    consistent: float | None
    consistent_low: float | None
    consistent_high: float | None
    first_place: int
    second_place: int


class PairSummary(PreferenceSummary):
    """Preferences between variants ``a`` and ``b``; ``p_holm`` is adjusted over a study's pairs."""

    a: str
    b: str
    p_holm: float


class DifferenceSummary(TypedDict):
    """Differences of the judge's scores between variants ``a`` and ``b`` by criterion."""

    a: str
    b: str
    criteria: dict[str, ScoreDifference]


class JudgeScores(TypedDict):
    """The judge's part of ``scores.json``."""

    variants: dict[str, JudgeSummary]
    pairs: list[PairSummary]
    differences: list[DifferenceSummary]
