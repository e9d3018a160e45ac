"""Answering only above a confidence threshold that guarantees an accuracy."""

from __future__ import annotations

from math import ceil, log, sqrt

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.means import mean_figures
from prooftune.evaluation.metrics import Floats, Outcomes
from prooftune.evaluation.resampling import Groups, groups_of
from prooftune.evaluation.score_types import Abstention, Estimate

STEPS = 20
"""Thresholds are tested at this many coverages: 5%, 10%, ... of the validation examples."""

START = 1.5
"""The first tested threshold accepts this multiple of the answers that would suffice if all of them
were right, so that a single mistake does not end the procedure."""


RESAMPLES = 2000
"""Resamples of groups for the interval of the accuracy on test examples."""


def guaranteed_threshold(
    validation: Outcomes, target: float, delta: float, groups: Groups | None = None
) -> float | None:
    """The lowest confidence above which answers are right at the target share, with a probability
    of at least 1 - delta over the draw of the validation examples.

    Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) by fixed-sequence testing: from a
    high threshold downwards, the hypothesis that fewer answers are right is tested by an exact
    binomial test at level delta, and the first that is not rejected ends the sequence. The
    sequence is fixed by the confidences, which say nothing about the answers' truth.

    Args:
        validation: predictions with probabilities.
        target: accuracy among the answers given, 0 to 1.
        delta: probability with which it may be missed.
        groups: the groups in which validation examples come, if any. A t-test on the groups must
            reject as well then; the guarantee is approximate.

    Returns:
        None where no threshold can be guaranteed.
    """
    sure, wrong, given = _tested(validation, target, delta)
    p_values = _p_values(wrong, given, target)
    if groups is not None:
        p_values = np.maximum(p_values, _group_p_values(validation, sure, target, groups))
    passed = p_values <= delta
    # Fixed-sequence testing stops at the first failure; later successes do not count.
    failed = np.flatnonzero(~passed)
    last = (int(failed[0]) if len(failed) else len(passed)) - 1
    return float(sure[last]) if last >= 0 else None


def needed_rows(validation: Outcomes, target: float, delta: float) -> int | None:
    """How many validation examples a guarantee would need, about, if further ones were like these;
    None where no threshold reaches the target even without a guarantee."""
    if len(validation) == 0:
        return None
    sure, wrong, given = _counts_above(validation)
    del sure
    needed = []
    for mistakes, answers in zip(wrong.tolist(), given.tolist(), strict=True):
        # Above a threshold whose answers are wrong too often already, more rows only confirm the
        # failure.
        if mistakes / answers < 1 - target:
            enough = _enough_answers(mistakes / answers, target, delta)
            if enough is not None:
                needed.append(ceil(enough * len(validation) / answers))
    return min(needed, default=None)


def _enough_answers(error: float, target: float, delta: float) -> int | None:
    """Answers with which the binomial test rejects at this share of mistakes."""
    answers = least_answers(target, delta)
    # Where the error is only just below 1 - target, no realistic number of rows is enough.
    while answers < 10_000_000:
        mistakes = np.array([np.floor(error * answers)])
        if _p_values(mistakes, np.array([float(answers)]), target)[0] <= delta:
            return answers
        # Steps of 2% are precise enough for a plan, and cross the range in some hundred steps.
        answers = ceil(1.02 * answers)
    return None


def least_answers(target: float, delta: float) -> int:
    """Answers that are enough for a guarantee if none of them is wrong."""
    # The least n with target ** n <= delta: n right answers by luck, were the accuracy just at the
    # target.
    return ceil(log(delta) / log(target))


def _counts_above(validation: Outcomes) -> tuple[Floats, Floats, Floats]:
    """At every coverage that is tested: the threshold, mistakes and answers above it."""
    order = np.argsort(-validation.confidence, kind="stable")
    sure = validation.confidence[order]
    wrong = np.cumsum(~validation.correct[order]).astype(np.float64)
    # A threshold takes all examples of equal confidence or none of them.
    ends = np.flatnonzero(np.append(sure[1:] != sure[:-1], True))  # last of each confidence
    # Whole examples, then on to the end of a run of equal confidences.
    wanted = np.ceil(np.arange(1, STEPS + 1) / STEPS * len(sure)).astype(np.int64) - 1
    at = np.unique(ends[np.searchsorted(ends, wanted)])
    return sure[at], wrong[at], (at + 1).astype(np.float64)


def _tested(validation: Outcomes, target: float, delta: float) -> tuple[Floats, Floats, Floats]:
    if len(validation) == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    sure, wrong, given = _counts_above(validation)
    # With fewer validation rows than this only a coverage of 100% is tested.
    first = min(START * least_answers(target, delta), len(validation))
    begin = int(np.searchsorted(given, first))
    return sure[begin:], wrong[begin:], given[begin:]


def _p_values(wrong: Floats, given: Floats, target: float) -> Floats:
    """Probability of so few mistakes if answers were wrong at the share 1 - target."""
    from scipy.stats import binom

    return np.asarray(binom.cdf(wrong, given, 1 - target))


def _group_p_values(
    validation: Outcomes, thresholds: Floats, target: float, groups: Groups
) -> Floats:
    """One-sided t-tests on groups, one for each threshold: of every group, how many more answers
    above the threshold are right than the target share."""
    from scipy.stats import t

    if groups.count < 2:
        return np.ones(len(thresholds))
    answered = validation.confidence[:, None] >= thresholds
    rows = np.asarray((validation.correct[:, None] - target) * answered, dtype=np.float64)
    surplus = groups.sums(rows)  # [G, thresholds]
    mean, spread = surplus.mean(axis=0), surplus.std(axis=0, ddof=1)
    # Equal surpluses have no spread: their sign decides, and the binomial test must reject anyway.
    ratio = np.full(len(mean), np.inf)
    np.divide(mean * sqrt(groups.count), spread, where=spread > 0, out=ratio)
    return np.where(mean > 0, t.sf(ratio, groups.count - 1), 1.0)


def abstention(
    validation: Outcomes,
    test: Outcomes,
    target: float,
    confidence: float,
    groups: tuple[Groups | None, Groups | None] = (None, None),
) -> Abstention:
    """Answer only above the threshold guaranteed by validation; what that gives on test.

    Args:
        validation, test: predictions with probabilities.
        target: accuracy among the answers given, 0 to 1.
        confidence: of the guarantee, and of the interval.
        groups: the groups of validation and of test examples, if any.

    Returns:
        ``target``, ``confidence`` of the guarantee, ``reachable``, ``threshold``, ``needed_rows``
        (validation examples that a guarantee would need, where there is none; None where they come
        in groups); and on the test
        examples ``coverage``, ``answered`` and ``accuracy`` with its interval (Wilson's, or by
        groups; None when nothing was answered). ``grouped``: whether validation examples come in
        groups, so that the guarantee is approximate.
    """
    delta = 1 - confidence
    threshold = guaranteed_threshold(validation, target, delta, groups[0])
    if threshold is None:
        return {
            "target": target,
            "confidence": confidence,
            "threshold": None,
            "reachable": False,
            # How many rows groups would need depends on how much they differ.
            "needed_rows": None if groups[0] else needed_rows(validation, target, delta),
            "coverage": 0.0,
            "answered": 0,
            "accuracy": None,
            "grouped": groups[0] is not None,
        }
    answered = test.confidence >= threshold
    n = int(answered.sum())
    return {
        "target": target,
        "confidence": confidence,
        "threshold": threshold,
        "reachable": True,
        "needed_rows": None,
        "coverage": n / len(test),
        "answered": n,
        "accuracy": _accuracy(test.correct, answered, confidence, groups[1]) if n else None,
        "grouped": groups[0] is not None,
    }


def _accuracy(
    correct: NDArray[np.bool_],
    answered: NDArray[np.bool_],
    confidence: float,
    groups: Groups | None,
) -> Estimate:
    """Share of right answers among those given, with its interval."""
    right = correct[answered]
    # Groups without an answer have no part in this accuracy.
    own = None if groups is None else groups_of(groups.index[answered].tolist())
    hits = int(right.sum())
    low, high = wilson_interval(hits, len(right), confidence)
    if own is not None:
        figure = mean_figures({"": right.astype(np.float64)}, RESAMPLES, confidence, 0, own)[""]
        # Groups that are alike by chance make nothing surer than single examples would.
        low, high = min(low, figure["low"]), max(high, figure["high"])
    return {"value": hits / len(right), "low": low, "high": high}
