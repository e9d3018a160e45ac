"""Figures from judgements: means over what was judged, and beside them what was not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.statistics import (
    CHUNK_BYTES,
    Interval,
    mcnemar_p,
    percentile_interval,
    resample_counts,
    wilson_interval,
)
from prooftune.judge.human import HumanScores, agreement
from prooftune.judge.types import Judgement, Judgements, Preferences

RESAMPLES, CONFIDENCE = 2000, 0.95


def summarize(
    judgements: Judgements,
    human: HumanScores | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """JSON-ready figures of one variant's judgements.

    Args:
        judgements: from `judge`.
        human: people's scores, from `read_human`.
        resamples: bootstrap resamples.
        confidence: level of every interval.
        seed: of the resampling.

    Returns:
        ``model``, ``scale``, ``rows``, ``of``, ``seed``, ``confidence``, ``resamples`` and, by
        criterion, ``criteria``: ``mean`` of the judged answers with ``low`` and ``high`` (None
            without any), ``n`` judged, ``failed``,
        ``failure_rate`` with the Wilson interval ``failure_low`` to ``failure_high``, ``reasons``
        (reason -> count, most frequent first), ``scores`` (score -> count) and, with people's
        scores, ``human`` (the fields of `human.Agreement`; None where no answer was scored by
        both).

    Raises:
        UsageError: people scored none of the answers.
    """
    if (
        human is not None
        and not {(j.id, j.criterion) for j in judgements.judgements} & human.keys()
    ):
        raise UsageError(
            "judge.human: none of its ids is among the judged answers; ids are those of the test "
            "examples"
            f" ('{judgements.judgements[0].id}' for one)"
            if judgements.judgements
            else "judge: nothing was judged"
        )
    options = (resamples, confidence, seed)
    criteria = {}
    for name in judgements.criteria:
        own = [j for j in judgements.judgements if j.criterion == name]
        criteria[name] = _criterion(own, judgements.scale, *options)
        if human is not None:
            criteria[name]["human"] = _human(own, human, judgements.scale, *options)
    return {
        "model": judgements.model,
        "scale": list(judgements.scale),
        "rows": judgements.rows,
        "of": judgements.total,
        "seed": judgements.seed,
        "confidence": confidence,
        "resamples": resamples,
        "criteria": criteria,
    }


def paired_difference(
    first: Judgements,
    second: Judgements,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """Paired differences of two variants' mean scores, first minus second, over the answers that
    are judged in both.

    Returns:
        By criterion: ``difference``, ``low`` and ``high`` (paired bootstrap; None without any
        pair), ``n`` pairs, ``left_out`` pairs with a failed judgement on either side, ``higher``
        and ``lower`` (answers of the first variant that scored above and below those of the
        second), and ``p`` of the exact sign test on these.

    Raises:
        UsageError: the two were not judged on the same rows, criteria and scale.
    """
    keys = [[(j.id, j.criterion) for j in side.judgements] for side in (first, second)]
    if keys[0] != keys[1] or (first.model, first.scale) != (second.model, second.scale):
        raise UsageError(
            "judge: two variants can only be compared where one judge scored the same rows on the "
            "same criteria "
            "and scale"
        )
    result = {}
    for name in first.criteria:
        pairs = [
            (a.score, b.score)
            for a, b in zip(first.judgements, second.judgements, strict=True)
            if a.criterion == name
        ]
        steps = np.array(
            [a - b for a, b in pairs if a is not None and b is not None], dtype=np.float64
        )
        higher, lower = int((steps > 0).sum()), int((steps < 0).sum())
        mean = _ends("difference", mean_interval(steps, resamples, confidence, seed))
        result[name] = {
            **mean,
            "n": len(steps),
            "left_out": len(pairs) - len(steps),
            "higher": higher,
            "lower": lower,
            "p": mcnemar_p(higher, lower),
        }
    return result


def summarize_preferences(
    preferences: Preferences,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """JSON-ready figures of a comparison, as the first variant sees it.

    Returns:
        ``wins``, ``losses``, ``ties``, ``n`` (their sum), ``net`` ((wins - losses) / n) with its
        bootstrap interval ``low`` to ``high``, ``p`` of the exact sign test on wins and losses
        (ties left out; the same as McNemar's), ``asked_twice`` (pairs with two verdicts) and
        ``consistent``, the share of these in which both orders agree, with its Wilson interval
        ``consistent_low`` to ``consistent_high``, ``first_place`` and ``second_place`` (verdicts
        for the answer that stood there), ``failed``, ``failure_rate`` with its interval and
        ``reasons``.
    """
    every = preferences.preferences
    judged = [p for p in every if p.winner is not None]
    counts = Counter(p.winner for p in judged)
    steps = np.array(
        [(p.winner == "first") - (p.winner == "second") for p in judged], dtype=np.float64
    )
    twice = [(p.shown_first, p.shown_second) for p in judged if p.shown_first is not None]
    agree = sum(a == b for a, b in twice)
    low, high = wilson_interval(agree, len(twice), confidence)
    return {
        "model": preferences.model,
        "rows": preferences.rows,
        "of": preferences.total,
        "seed": preferences.seed,
        "confidence": confidence,
        "resamples": resamples,
        "wins": counts["first"],
        "losses": counts["second"],
        "ties": counts["tie"],
        "n": len(judged),
        **_ends("net", mean_interval(steps, resamples, confidence, seed)),
        "p": mcnemar_p(counts["first"], counts["second"]),
        "asked_twice": len(twice),
        "consistent": agree / len(twice) if twice else None,
        "consistent_low": low,
        "consistent_high": high,
        "first_place": sum((a == "first") + (b == "second") for a, b in twice),
        "second_place": sum((a == "second") + (b == "first") for a, b in twice),
        **_failures([p.failure for p in every if p.failure], len(every), confidence),
    }


def mean_interval(values: Floats, resamples: int, confidence: float, seed: int) -> Interval | None:
    """The mean of values [n] with its percentile bootstrap interval; None for no values."""
    n = len(values)
    if n == 0:
        return None
    chunk = max(1, CHUNK_BYTES // (8 * n))
    samples = [
        resample_counts(n, min(chunk, resamples - start), seed, start) @ values / n
        for start in range(0, resamples, chunk)
    ]
    return Interval(float(values.mean()), *percentile_interval(np.concatenate(samples), confidence))


def _criterion(
    judgements: list[Judgement],
    scale: tuple[int, int],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    scores = [j.score for j in judgements if j.score is not None]
    counts = Counter(scores)
    mean = mean_interval(np.array(scores, dtype=np.float64), resamples, confidence, seed)
    return {
        **_ends("mean", mean),
        "n": len(scores),
        **_failures([j.failure for j in judgements if j.failure], len(judgements), confidence),
        "scores": {str(score): counts[score] for score in range(scale[0], scale[1] + 1)},
    }


def _human(
    judgements: list[Judgement],
    human: HumanScores,
    scale: tuple[int, int],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any] | None:
    both = [
        (human[key], j.score)
        for j in judgements
        if j.score is not None and (key := (j.id, j.criterion)) in human
    ]
    if not both:
        return None
    people, judged = np.array(both, dtype=np.int64).T
    return asdict(agreement(people, judged, scale, resamples, confidence, seed))


def _failures(reasons: Iterable[str], of: int, confidence: float) -> dict[str, Any]:
    counts = Counter(reasons)
    failed = counts.total()
    low, high = wilson_interval(failed, of, confidence)
    return {
        "failed": failed,
        "failure_rate": failed / of if of else None,
        "failure_low": low,
        "failure_high": high,
        "reasons": dict(counts.most_common()),
    }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {name: None, "low": None, "high": None}
    return {name: interval.value, "low": interval.low, "high": interval.high}
