"""How far the judge agrees with people who scored the same answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune.errors import UsageError, nearest
from prooftune.evaluation.metrics import Floats, Ints
from prooftune.evaluation.statistics import CHUNK_BYTES, percentile_interval, resample_counts

COLUMNS = ("id", "criterion", "score")
HumanScores = dict[tuple[str, str], int]
"""(item's id, criterion) -> the score that a person gave."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the judge with people on one criterion.

    Attributes:
        kappa: Cohen's kappa with quadratic weights, -1 to 1; None where both gave one and the same
            score throughout.
        low, high: ends of its bootstrap interval; None where kappa is.
        exact: share of answers with the same score.
        n: answers that both scored.
    """

    kappa: float | None
    low: float | None
    high: float | None
    exact: float
    n: int


def read_human_scores(path: Path, criteria: Sequence[str], scale: tuple[int, int]) -> HumanScores:
    """Read a CSV file with columns ``id``, ``criterion`` and ``score``.

    Raises:
        UsageError: the file or a column is missing, or a row names an unknown criterion, no score
            of the scale, or the same answer and criterion again; with file and line.
    """
    found: HumanScores = {}
    for line, row in _rows(path):
        place = f"{path}, line {line}"
        id_, criterion, score = ((row[name] or "").strip() for name in COLUMNS)
        if criterion not in criteria:
            raise UsageError(
                f"{place}: unknown criterion '{criterion}'{nearest(criterion, criteria)}; "
                f"judged are {', '.join(criteria)}"
            )
        if not score.isdecimal() or not scale[0] <= int(score) <= scale[1]:
            raise UsageError(f"{place}: '{score}' is no whole number from {scale[0]} to {scale[1]}")
        if (id_, criterion) in found:
            raise UsageError(
                f"{place}: '{id_}' was scored on {criterion} before. Give one score per answer "
                "and criterion"
            )
        found[id_, criterion] = int(score)
    if not found:
        raise UsageError(f"{path}: no scores in it; a row is: id,criterion,score")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if absent:
                raise UsageError(
                    f"{path}: no column {', '.join(absent)}; there are "
                    f"{', '.join(reader.fieldnames or []) or 'none'}"
                )
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise UsageError(f"judge.human: cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"judge.human: {path} is no UTF-8 CSV file ({error})") from None


def agreement(
    human: Ints, judged: Ints, scale: tuple[int, int], resamples: int, confidence: float, seed: int
) -> Agreement:
    """Cohen's kappa (1968, weighted) with quadratic weights between two raters' scores of the same
    answers, int [n] each.

    Raises:
        ValueError: there are no scores.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(human) == 0:
        raise ValueError("no scores to compare")
    exact = float((human == judged).mean())
    if len(np.unique(np.concatenate([human, judged]))) == 1:
        return Agreement(None, None, None, exact, len(human))
    labels = range(scale[0], scale[1] + 1)
    kappa = float(cohen_kappa_score(human, judged, labels=list(labels), weights="quadratic"))
    low, high = percentile_interval(_resampled_kappas(human, judged, resamples, seed), confidence)
    known = not np.isnan(low)
    return Agreement(kappa, low if known else None, high if known else None, exact, len(human))


def _resampled_kappas(human: Ints, judged: Ints, resamples: int, seed: int) -> Floats:
    """Quadratic kappa of every resample, [R]; not-a-number where a resample holds one score only.

    With squared differences as weights the expected disagreement needs only means: E(x-y)^2 of
    independent raters is E x^2 + E y^2 - 2 (E x)(E y), so that a resample's kappa is a function of
    five sums.
    """
    x, y = human.astype(np.float64), judged.astype(np.float64)
    columns = np.stack([x, y, x**2, y**2, (x - y) ** 2], axis=1)
    n = len(x)
    chunk = max(1, CHUNK_BYTES // (8 * n))
    means = np.concatenate(
        [
            resample_counts(n, min(chunk, resamples - start), seed, start) @ columns / n
            for start in range(0, resamples, chunk)
        ]
    )
    expected = means[:, 2] + means[:, 3] - 2 * means[:, 0] * means[:, 1]
    # Sums of small squares are exact, so nothing but a single score gives less than this.
    some = expected > 1e-9
    return np.where(some, 1 - means[:, 4] / np.where(some, expected, 1.0), np.nan)
