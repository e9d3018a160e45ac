"""Drift: how labelled rows differ from the test rows of the bundle's study, by tests of two
independent samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot

import numpy as np

from prooftune.bundle.manifest import StudySummary, TextLengths
from prooftune.bundle_evaluation.types import (
    DifferenceTest,
    LabelShift,
    LengthShift,
    MetricChange,
)
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.score_types import Estimate, Figure, Scores, defined
from prooftune.types import Example

PROPORTIONS = ("accuracy", "exact", "subset_accuracy")
"""Metrics that are a share of rows, so that counts can be tested."""
COMPARED = (
    "accuracy",
    "macro_f1",
    "quadratic_kappa",
    "mae",
    "mean_cost",
    "log_loss",
    "samples_f1",
    "subset_accuracy",
    "hamming_loss",
    "exact",
    "f1",
    "rougeL",
    "bleu",
    "bertscore_f1",
)
"""Metrics whose change is given, with the primary one: all that the table of metrics shows."""
MIN_EXPECTED = 5
"""With a smaller expected count of a label, the chi-squared distribution is not used (Cochran 1954,
Biometrics 10:417), but a permutation test."""
# With the observed table 10,000, so that the smallest p-value is 0.0001.
PERMUTATIONS = 9_999
_CHUNK = 500

PROPORTION_METHOD = "Fisher's exact test; Newcombe's interval of two independent proportions"
INTERVAL_METHOD = "interval of the difference from both intervals (MOVER)"


def metric_changes(
    scores: Scores,
    metrics: Mapping[str, Figure],
    study: StudySummary,
    temperature: float | None = None,
) -> dict[str, MetricChange]:
    """Differences of metrics, these rows minus the study's test rows.

    Shares of ungrouped rows are tested by Fisher's exact test. Other metrics, and rows in groups,
    differ significantly if the interval of the difference excludes 0. Significance levels are of
    one comparison each.

    Args:
        scores: of the evaluation: ``n``, ``confidence``, ``groups``, ``primary``.
        metrics: the bundle's metrics on these rows.
        study: summary of the study in the bundle.
        temperature: of the bundle, after which the log-loss is. Older bundles have the study's only
            before it, and no change where it is another one than 1.

    Returns:
        By metric: ``study`` and ``now`` (value, low, high), ``study_n``, ``n``, ``difference``
        (value, low, high), ``p`` (None without a test), ``significant``, ``method``.
    """
    # The primary metric first, and once.
    names = [scores["primary"], *(n for n in COMPARED if n != scores["primary"])]
    confidence, n, study_n = scores["confidence"], scores["n"], study["n"]
    changes: dict[str, MetricChange] = {}
    for name in names:
        before, figure = study["metrics"].get(name), metrics.get(name)
        if name == "log_loss" and temperature not in (None, 1.0):
            before = study.get("scaled_log_loss")
        if before is None or figure is None or figure["low"] is None or not study_n:
            continue
        now = defined(figure)
        # Fisher's test takes rows for independent trials, which rows of a group are not.
        if name in PROPORTIONS and scores["groups"] is None:
            # The bundle carries shares; times the rows they are counts again.
            hits = round(before["value"] * study_n), round(now["value"] * n)
            tested = compare_proportions(hits[1], n, hits[0], study_n, confidence)
        else:
            difference = mover_difference(now, before)
            tested = {
                "difference": difference,
                "p": None,
                "significant": difference["low"] > 0 or difference["high"] < 0,
                "method": INTERVAL_METHOD,
            }
        changes[name] = {"study": before, "now": now, "study_n": study_n, "n": n, **tested}
    return changes


def compare_proportions(
    hits: int, n: int, other_hits: int, other_n: int, confidence: float
) -> DifferenceTest:
    """Difference of two independent proportions, first minus second.

    Interval: Newcombe (1998, Statistics in Medicine 17:873, method 10), from the intervals of
    `wilson_interval`; it contains 0 exactly if the test finds no difference.

    Returns:
        ``difference`` (value, low, high), two-sided ``p``, ``significant``, ``method``.
    """
    from scipy.stats import fisher_exact

    p = float(fisher_exact([[hits, n - hits], [other_hits, other_n - other_hits]])[1])
    sides: list[Estimate] = []
    for right, total in ((hits, n), (other_hits, other_n)):
        low, high = wilson_interval(right, total, confidence)
        sides.append({"value": right / total, "low": low, "high": high})
    significant = p < 1 - confidence
    return {
        "difference": consistent(mover_difference(sides[0], sides[1]), significant),
        "p": p,
        "significant": significant,
        "method": PROPORTION_METHOD,
    }


def mover_difference(first: Estimate, second: Estimate) -> Estimate:
    """Interval of the difference of two independent figures, first minus second, from the interval
    of each (Zou and Donner 2008, Statistics in Medicine 27:1693: "method of variance estimates
    recovery")."""
    value = first["value"] - second["value"]
    # Each end takes the distance that works against it: the first's lower with the second's upper.
    below = hypot(first["value"] - first["low"], second["high"] - second["value"])
    above = hypot(first["high"] - first["value"], second["value"] - second["low"])
    return {"value": value, "low": value - below, "high": value + above}


def label_shift(
    support: Mapping[str, int], study_counts: Mapping[str, int] | None, confidence: float
) -> LabelShift | None:
    """Whether label shares differ from those of the study's test rows.

    Pearson's chi-squared test of homogeneity, by permutation where labels are rare; Fisher's exact
    test for two labels.

    Args:
        support: label -> rows here; all labels.
        study_counts: label -> test rows of the study; None if the bundle does not carry them.
        confidence: one minus the significance level.

    Returns:
        ``shares`` (label -> ``study``, ``now``, ``change``), ``moved`` (total variation distance:
        the share of rows by which the distributions differ, 0 to 1), ``p`` (None with a single
        label), ``significant``, ``method``. None without the study's counts.
    """
    if not study_counts or not sum(study_counts.values()):
        return None
    labels = list(support)
    table = np.array(
        [[support[label] for label in labels], [study_counts.get(label, 0) for label in labels]],
        dtype=np.float64,
    )
    now, study = table / table.sum(axis=1, keepdims=True)
    p, method = _homogeneity(table)
    return {
        "shares": {
            label: {"study": study[i], "now": now[i], "change": now[i] - study[i]}
            for i, label in enumerate(labels)
        },
        # Half the sum: what one label gains, another loses.
        "moved": float(np.abs(now - study).sum() / 2),
        "p": p,
        "significant": p is not None and p < 1 - confidence,
        "method": method,
    }


def label_set_shift(
    support: Mapping[str, int], n: int, study_counts: Mapping[str, int] | None, study_n: int | None
) -> LabelShift | None:
    """Shares of the texts that have each label, of which a text may have several. They are not
    tested: the labels of a text depend on one another.

    Args:
        support: label -> rows that have it.
        n: number of rows.
        study_counts: label -> test rows of the study that have it; None if the bundle does not
            carry them.
        study_n: number of these test rows.
    """
    if not study_counts or not study_n:
        return None
    shares = {
        label: (study_counts.get(label, 0) / study_n, support[label] / n) for label in support
    }
    return {
        "shares": {
            label: {"study": study, "now": now, "change": now - study}
            for label, (study, now) in shares.items()
        },
        "moved": None,
        "p": None,
        "significant": False,
        "method": "shares of texts, without a test, as the labels of a text depend on one another",
    }


def length_shift(
    examples: Sequence[Example], study: TextLengths | None, confidence: float
) -> LengthShift | None:
    """Whether texts are longer or shorter than the study's test rows.

    Both are counted in the tenths of the study's lengths, and the counts are tested as those of
    labels are.

    Args:
        examples: the rows.
        study: lengths of the study's test rows; None if the bundle does not carry them.
        confidence: one minus the significance level.
    """
    if study is None or not sum(study["counts"]):
        return None
    lengths = np.array([sum(map(len, e.inputs.values())) for e in examples])
    bins = np.searchsorted(np.array(study["edges"]), lengths, side="left")
    # Texts longer than all edges are in the last count.
    counts = np.bincount(bins, minlength=len(study["counts"]))
    table = np.array([counts, study["counts"]], dtype=np.float64)
    now, before = table / table.sum(axis=1, keepdims=True)
    p, method = _homogeneity(table)
    return {
        "study_median": study["median"],
        "median": float(np.median(lengths)),
        "shares": now.tolist(),
        "moved": float(np.abs(now - before).sum() / 2),
        "p": p,
        "significant": p is not None and p < 1 - confidence,
        "method": method.replace("label", "length"),
    }


def _homogeneity(table: Floats) -> tuple[float | None, str]:
    """p-value of equal distributions of both rows [2, labels], and the name of the test."""
    from scipy.stats import chi2_contingency, fisher_exact

    # A label that neither sample has would divide by an expected count of 0.
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return None, "a single label, so there is no test"
    if table.shape[1] == 2:
        return float(fisher_exact(table.astype(np.int64))[1]), "Fisher's exact test"
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    if expected.min() >= MIN_EXPECTED:
        p = chi2_contingency(table, correction=False)[1]
        return float(p), "chi-squared test of homogeneity"
    return _permuted(table, expected), "permutation test of the chi-squared statistic"


def _permuted(table: Floats, expected: Floats) -> float:
    """Monte Carlo p-value of Pearson's statistic: rows are dealt to both samples at random."""
    # With fixed margins the second row's deviations mirror the first's, so one row tells the whole
    # statistic.
    weights = (1 / expected).sum(axis=0)
    observed = float(((table[0] - expected[0]) ** 2 * weights).sum())
    totals, n = table.sum(axis=0).astype(np.int64), int(table[0].sum())
    # A fixed seed: the same data must give the same p-value.
    draw = np.random.default_rng(0)
    reached = 0
    for start in range(0, PERMUTATIONS, _CHUNK):
        size = min(_CHUNK, PERMUTATIONS - start)
        dealt = draw.multivariate_hypergeometric(totals, n, size=size, method="marginals")
        statistics = ((dealt - expected[0]) ** 2 * weights).sum(axis=1)
        # Equal tables may differ by rounding.
        reached += int((statistics >= observed * (1 - 1e-9)).sum())
    return (1 + reached) / (1 + PERMUTATIONS)
