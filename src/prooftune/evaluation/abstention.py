"""Answering only above a confidence threshold that guarantees an accuracy."""

from __future__ import annotations

from math import ceil, log

import numpy as np

from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.metrics import Floats, Outcomes
from prooftune.evaluation.score_types import Abstention

STEPS = 20
"""Thresholds are tested at this many coverages: 5%, 10%, ... of the validation examples."""

START = 1.5
"""The first tested threshold accepts this multiple of the answers that would suffice if all of them
were right, so that a single mistake does not end the procedure."""


def guaranteed_threshold(validation: Outcomes, target: float, delta: float) -> float | None:
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

    Returns:
        None where no threshold can be guaranteed.
    """
    sure, wrong, given = _tested(validation, target, delta)
    passed = _p_values(wrong, given, target) <= delta
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


def abstention(
    validation: Outcomes, test: Outcomes, target: float, confidence: float
) -> Abstention:
    """Answer only above the threshold guaranteed by validation; what that gives on test.

    Returns:
        ``target``, ``confidence`` of the guarantee, ``reachable``, ``threshold``, ``needed_rows``
        (validation examples that a guarantee would need, where there is none); and on the test
        examples ``coverage``, ``answered`` and ``accuracy`` with its Wilson interval (None when
        nothing was answered).
    """
    delta = 1 - confidence
    threshold = guaranteed_threshold(validation, target, delta)
    if threshold is None:
        return {
            "target": target,
            "confidence": confidence,
            "threshold": None,
            "reachable": False,
            "needed_rows": needed_rows(validation, target, delta),
            "coverage": 0.0,
            "answered": 0,
            "accuracy": None,
        }
    answered = test.confidence >= threshold
    n, hits = int(answered.sum()), int(test.correct[answered].sum())
    low, high = wilson_interval(hits, n, confidence)
    return {
        "target": target,
        "confidence": confidence,
        "threshold": threshold,
        "reachable": True,
        "needed_rows": None,
        "coverage": n / len(test),
        "answered": n,
        "accuracy": {"value": hits / n, "low": low, "high": high} if n else None,
    }
