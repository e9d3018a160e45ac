"""Summary statistics of judgements: means, intervals, and failures with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.intervals import Interval, percentile_interval, wilson_interval
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import CHUNK_BYTES, resample_counts
from prooftune.evaluation.score_types import (
    CriterionSummary,
    FailureCounts,
    HumanAgreement,
    JudgeSummary,
    PreferenceSummary,
    ScoreDifference,
)
from prooftune.evaluation.significance import mcnemar_p
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
) -> JudgeSummary:
    """Summarise one variant's judgements, JSON-ready.

    Args:
        judgements: from `judge`.
        human: human scores, from `read_human_scores`.
        resamples: bootstrap resamples.
        confidence: level of every interval.
        seed: seed of the resampling.

    Raises:
        UsageError: the human scores cover none of the answers.
    """
    if (
        human is not None
        and not {(j.id, j.criterion) for j in judgements.judgements} & human.keys()
    ):
        raise UsageError(
            "judge.human: none of its ids is among the judged answers. Use the ids of the test "
            f"examples, such as '{judgements.judgements[0].id}'"
            if judgements.judgements
            else "judge: nothing was judged"
        )
    options = (resamples, confidence, seed)
    criteria: dict[str, CriterionSummary] = {}
    for name in judgements.criteria:
        own = [j for j in judgements.judgements if j.criterion == name]
        criteria[name] = _summarize_criterion(own, judgements.scale, *options)
        if human is not None:
            criteria[name]["human"] = _human_agreement(own, human, judgements.scale, *options)
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
) -> dict[str, ScoreDifference]:
    """Paired differences of two variants' mean scores by criterion, first minus second.

    Only answers judged for both variants count.

    Raises:
        UsageError: the rows, criteria, scale or judge of the two differ.
    """
    # The order, too: the pairs below are made by position.
    keys = [[(j.id, j.criterion) for j in side.judgements] for side in (first, second)]
    if keys[0] != keys[1] or (first.model, first.scale) != (second.model, second.scale):
        raise UsageError(
            "judge: two variants can only be compared if the same judge scored the same rows on "
            "the same criteria and scale"
        )
    result: dict[str, ScoreDifference] = {}
    for name in first.criteria:
        pairs = [
            (a.score, b.score)
            for a, b in zip(first.judgements, second.judgements, strict=True)
            if a.criterion == name
        ]
        differences = np.array(
            [a - b for a, b in pairs if a is not None and b is not None], dtype=np.float64
        )
        higher, lower = int((differences > 0).sum()), int((differences < 0).sum())
        mean = mean_interval(differences, resamples, confidence, seed)
        result[name] = {
            "difference": mean.value if mean else None,
            "low": mean.low if mean else None,
            "high": mean.high if mean else None,
            "n": len(differences),
            "left_out": len(pairs) - len(differences),
            "higher": higher,
            "lower": lower,
            # The exact sign test: are higher and lower scores a fair coin? Ties say nothing.
            "p": mcnemar_p(higher, lower),
        }
    return result


def summarize_preferences(
    preferences: Preferences,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PreferenceSummary:
    """Summarise pairwise preferences from the first variant's point of view, JSON-ready."""
    all_pairs = preferences.preferences
    judged = [p for p in all_pairs if p.winner is not None]
    counts = Counter(p.winner for p in judged)
    outcomes = np.array(
        # 1, -1, or 0 for a tie.
        [(p.winner == "first") - (p.winner == "second") for p in judged],
        dtype=np.float64,
    )
    # Without equal answers, which no order could change.
    twice = [(p.shown_first, p.shown_second) for p in judged if p.shown_first is not None]
    agree = sum(a == b for a, b in twice)
    low, high = wilson_interval(agree, len(twice), confidence)
    net = mean_interval(outcomes, resamples, confidence, seed)
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
        "net": net.value if net else None,
        "low": net.low if net else None,
        "high": net.high if net else None,
        "p": mcnemar_p(counts["first"], counts["second"]),
        "asked_twice": len(twice),
        "consistent": agree / len(twice) if twice else None,
        "consistent_low": low,
        "consistent_high": high,
        "first_place": sum((a == "first") + (b == "second") for a, b in twice),
        "second_place": sum((a == "second") + (b == "first") for a, b in twice),
        **_count_failures([p.failure for p in all_pairs if p.failure], len(all_pairs), confidence),
    }


def mean_interval(values: Floats, resamples: int, confidence: float, seed: int) -> Interval | None:
    """Mean with percentile bootstrap interval; None without values.

    Args:
        values: float [n].
        resamples: bootstrap resamples.
        confidence: level of the interval.
        seed: seed of the resampling.
    """
    n = len(values)
    if n == 0:
        return None
    chunk = max(1, CHUNK_BYTES // (8 * n))
    samples = [
        resample_counts(n, min(chunk, resamples - start), seed, start) @ values / n
        for start in range(0, resamples, chunk)
    ]
    return Interval(float(values.mean()), *percentile_interval(np.concatenate(samples), confidence))


def _summarize_criterion(
    judgements: list[Judgement],
    scale: tuple[int, int],
    resamples: int,
    confidence: float,
    seed: int,
) -> CriterionSummary:
    scores = [j.score for j in judgements if j.score is not None]
    counts = Counter(scores)
    mean = mean_interval(np.array(scores, dtype=np.float64), resamples, confidence, seed)
    reasons = [j.failure for j in judgements if j.failure]
    failures = _count_failures(reasons, len(judgements), confidence)
    return {
        "mean": mean.value if mean else None,
        "low": mean.low if mean else None,
        "high": mean.high if mean else None,
        "n": len(scores),
        "failed": failures["failed"],
        "failure_rate": failures["failure_rate"],
        "failure_low": failures["failure_low"],
        "failure_high": failures["failure_high"],
        "reasons": failures["reasons"],
        "scores": {str(score): counts[score] for score in range(scale[0], scale[1] + 1)},
    }


def _human_agreement(
    judgements: list[Judgement],
    human: HumanScores,
    scale: tuple[int, int],
    resamples: int,
    confidence: float,
    seed: int,
) -> HumanAgreement | None:
    both = [
        (human[key], j.score)
        for j in judgements
        if j.score is not None and (key := (j.id, j.criterion)) in human
    ]
    if not both:
        return None
    human_scores, judge_scores = np.array(both, dtype=np.int64).T
    measured = agreement(human_scores, judge_scores, scale, resamples, confidence, seed)
    return {
        "kappa": measured.kappa,
        "low": measured.low,
        "high": measured.high,
        "exact": measured.exact,
        "n": measured.n,
    }


def _count_failures(reasons: Iterable[str], total: int, confidence: float) -> FailureCounts:
    counts = Counter(reasons)
    failed = counts.total()
    low, high = wilson_interval(failed, total, confidence)
    return {
        "failed": failed,
        "failure_rate": failed / total if total else None,
        "failure_low": low,
        "failure_high": high,
        "reasons": dict(counts.most_common()),
    }
