"""Summary statistics of judgements: means, intervals, and failures with their reasons.

Where answers come in groups (`Grouping`), all intervals and tests are by groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from prooftune.errors import UsageError
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.intervals import SIGNED, wilson_interval
from prooftune.evaluation.means import (
    Resampling,
    bounded_mean,
    bounded_mean_difference,
    mean_figures,
)
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.resampling import Groups, groups_of
from prooftune.evaluation.score_types import (
    CriterionSummary,
    FailureCounts,
    Figure,
    HumanAgreement,
    JudgeSummary,
    PreferenceSummary,
    ScoreDifference,
    defined,
)
from prooftune.evaluation.significance import mcnemar_p, swap_test
from prooftune.judge.human import HumanScores, agreement
from prooftune.judge.types import Judgement, Judgements, Preferences

RESAMPLES, CONFIDENCE = 2000, 0.95

Grouping = Mapping[str, Hashable]
"""Group of every example, by its id."""


def summarize(
    judgements: Judgements,
    human: HumanScores | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    groups: Grouping | None = None,
) -> JudgeSummary:
    """Summarise one variant's judgements, JSON-ready.

    Args:
        judgements: from `judge`.
        human: human scores, from `read_human_scores`.
        resamples: bootstrap resamples.
        confidence: level of every interval.
        seed: seed of the resampling.
        groups: group of every answer, if they come in groups.

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
    resampling = Resampling(resamples, confidence, seed)
    criteria: dict[str, CriterionSummary] = {}
    for name in judgements.criteria:
        own = [j for j in judgements.judgements if j.criterion == name]
        criteria[name] = _summarize_criterion(own, judgements.scale, resampling, groups)
        if human is not None:
            criteria[name]["human"] = _human_agreement(own, human, resampling, groups)
    judged_groups = _groups_of([j.id for j in judgements.judgements], groups)
    return {
        "model": judgements.model,
        "scale": list(judgements.scale),
        "rows": judgements.rows,
        "of": judgements.total,
        "seed": judgements.seed,
        "confidence": confidence,
        "resamples": resamples,
        "groups": judged_groups.count if judged_groups else None,
        "criteria": criteria,
    }


def paired_difference(
    first: Judgements,
    second: Judgements,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    groups: Grouping | None = None,
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
            (a.id, a.score, b.score)
            for a, b in zip(first.judgements, second.judgements, strict=True)
            if a.criterion == name
        ]
        # A row whose score failed for one variant is left out for both: the comparison is paired.
        both = [(id_, a, b) for id_, a, b in pairs if a is not None and b is not None]
        # The reshape keeps two rows where no pair is left.
        scores = np.array([(a, b) for _, a, b in both], dtype=np.float64).reshape(-1, 2).T
        signs = np.sign(scores[0] - scores[1])
        own = _groups_of([id_ for id_, _, _ in both], groups)
        mean = bounded_mean_difference(
            scores[0], scores[1], first.scale, Resampling(resamples, confidence, seed), own
        )
        p = _flip_test(scores[0] - scores[1], seed, own)
        ends: Figure = {"value": None, "low": None, "high": None}
        if mean is not None:
            figure: Figure = {"value": mean.value, "low": mean.low, "high": mean.high}
            # The interval may not exclude 0 where the test does not reject.
            ends = {**consistent(defined(figure), p < 1 - confidence)}
        result[name] = {
            "difference": ends["value"],
            "low": ends["low"],
            "high": ends["high"],
            "n": len(both),
            "left_out": len(pairs) - len(both),
            "higher": int((signs > 0).sum()),
            "lower": int((signs < 0).sum()),
            "p": p,
        }
    return result


def summarize_preferences(
    preferences: Preferences,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    groups: Grouping | None = None,
    pairs: int = 1,
) -> PreferenceSummary:
    """Summarise pairwise preferences from the first variant's point of view, JSON-ready.

    Args:
        preferences: from `compare`.
        resamples, confidence, seed, groups: as for `summarize`.
        pairs: pairs of variants that are compared: the intervals of their net preferences hold
            together.
    """
    all_pairs = preferences.preferences
    judged = [p for p in all_pairs if p.winner is not None]
    counts = Counter(p.winner for p in judged)
    outcomes = np.array(
        # 1, -1, or 0 for a tie.
        [(p.winner == "first") - (p.winner == "second") for p in judged],
        dtype=np.float64,
    )
    # Without equal answers, which no order could change.
    shown_twice = [p for p in judged if p.shown_first is not None]
    twice = [(p.shown_first, p.shown_second) for p in shown_twice]
    agree = [a == b for a, b in twice]
    resampling = Resampling(resamples, confidence, seed)
    # How often the order of the answers did not matter.
    low, high = _share_interval(agree, resampling, _groups_of([p.id for p in shown_twice], groups))
    own = _groups_of([p.id for p in judged], groups)
    # Bonferroni over the pairs of variants that the judge compared.
    simultaneous = Resampling(resamples, 1 - (1 - confidence) / pairs, seed)
    net = bounded_mean(outcomes, SIGNED, simultaneous, own)
    return {
        "model": preferences.model,
        "rows": preferences.rows,
        "of": preferences.total,
        "seed": preferences.seed,
        "confidence": confidence,
        "resamples": resamples,
        "groups": own.count if own else None,
        "wins": counts["first"],
        "losses": counts["second"],
        "ties": counts["tie"],
        "n": len(judged),
        "net": net.value if net else None,
        "low": net.low if net else None,
        "high": net.high if net else None,
        "p": _sign_test(outcomes, seed, own),
        "asked_twice": len(twice),
        "consistent": sum(agree) / len(twice) if twice else None,
        "consistent_low": low,
        "consistent_high": high,
        "first_place": sum((a == "first") + (b == "second") for a, b in twice),
        "second_place": sum((a == "second") + (b == "first") for a, b in twice),
        **_count_failures(
            [p.failure for p in all_pairs],
            resampling,
            _groups_of([p.id for p in all_pairs], groups),
        ),
    }


def _summarize_criterion(
    judgements: Sequence[Judgement],
    scale: tuple[int, int],
    resampling: Resampling,
    groups: Grouping | None,
) -> CriterionSummary:
    # A failed reply is no low score; failures have a rate of their own.
    valid = [(j.id, j.score) for j in judgements if j.score is not None]
    counts = Counter(score for _, score in valid)
    scores = np.array([score for _, score in valid], dtype=np.float64)
    mean = bounded_mean(scores, scale, resampling, _groups_of([id_ for id_, _ in valid], groups))
    failures = _count_failures(
        [j.failure for j in judgements],
        resampling,
        _groups_of([j.id for j in judgements], groups),
    )
    return {
        "mean": mean.value if mean else None,
        "low": mean.low if mean else None,
        "high": mean.high if mean else None,
        "n": len(valid),
        "failed": failures["failed"],
        "failure_rate": failures["failure_rate"],
        "failure_low": failures["failure_low"],
        "failure_high": failures["failure_high"],
        "reasons": failures["reasons"],
        "scores": {str(score): counts[score] for score in range(scale[0], scale[1] + 1)},
    }


def _human_agreement(
    judgements: Sequence[Judgement],
    human: HumanScores,
    resampling: Resampling,
    groups: Grouping | None,
) -> HumanAgreement | None:
    both = [
        (j.id, human[key], j.score)
        for j in judgements
        if j.score is not None and (key := (j.id, j.criterion)) in human
    ]
    if not both:
        return None
    human_scores, judge_scores = np.array([pair[1:] for pair in both], dtype=np.int64).T
    own = _groups_of([id_ for id_, _, _ in both], groups)
    measured = agreement(human_scores, judge_scores, resampling, own)
    return {
        "kappa": measured.kappa,
        "low": measured.low,
        "high": measured.high,
        "exact": measured.exact,
        "n": measured.n,
    }


def _count_failures(
    reasons: Sequence[str], resampling: Resampling, groups: Groups | None
) -> FailureCounts:
    """Failures among judgements, given the reason of each, empty for valid ones."""
    counts = Counter(reason for reason in reasons if reason)
    low, high = _share_interval([bool(reason) for reason in reasons], resampling, groups)
    return {
        "failed": counts.total(),
        "failure_rate": counts.total() / len(reasons) if reasons else None,
        "failure_low": low,
        "failure_high": high,
        "reasons": dict(counts.most_common()),
    }


def _share_interval(
    flags: Sequence[bool], resampling: Resampling, groups: Groups | None
) -> tuple[float, float]:
    """Wilson's interval of a share; with groups, the wider end on each side of it and of the
    interval by groups."""
    low, high = wilson_interval(sum(flags), len(flags), resampling.confidence)
    if groups is not None and flags:
        mean = mean_figures(
            {"": np.array(flags, dtype=np.float64)},
            resampling.resamples,
            resampling.confidence,
            resampling.seed,
            groups,
        )[""]
        # Groups that are alike by chance make nothing surer than single answers would.
        low, high = min(low, mean["low"]), max(high, mean["high"])
    return low, high


def _sign_test(signs: Floats, seed: int, groups: Groups | None) -> float:
    """Two-sided p-value of signs [n], -1, 0 or 1: are positive and negative ones a fair coin? Zeros
    say nothing. Exact, or by flipping the signs of whole groups."""
    if groups is None:
        # Single answers: the sign test, which is exact.
        return mcnemar_p(int((signs > 0).sum()), int((signs < 0).sum()))
    return _flip_test(signs, seed, groups)


def _flip_test(differences: Floats, seed: int, groups: Groups | None) -> float:
    """Two-sided p-value of the mean of paired differences [n], by flipping their signs, of whole
    groups where there are any."""
    # To swap a difference with 0 is to flip its sign.
    zeros = np.zeros((1, 1))
    return swap_test(
        differences[:, None], zeros, lambda summed: summed[..., 0], seed, groups=groups
    )


def _groups_of(ids: Iterable[str], groups: Grouping | None) -> Groups | None:
    """Groups of the answers with these ids; None where every answer stands alone."""
    return None if groups is None else groups_of([groups[id_] for id_ in dict.fromkeys(ids)])
