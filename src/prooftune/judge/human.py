"""Agreement of the judge with human raters who scored the same answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune.errors import UsageError, nearest
from prooftune.evaluation.intervals import percentile_interval
from prooftune.evaluation.metrics import Floats, Ints
from prooftune.evaluation.resampling import CHUNK_BYTES, resample_counts

COLUMNS = ("id", "criterion", "score")
VARIANT = "variant"
"""Optional column: whose answer was scored."""
HumanScores = dict[tuple[str, str], int]
"""(item id, criterion) -> human score."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the judge with human raters on one criterion.

    Attributes:
        kappa: Cohen's kappa with quadratic weights, -1 to 1; None where all scores are equal.
        low, high: bounds of its bootstrap interval; None where undefined.
        exact: share of answers with the same score.
        n: answers scored by both.
    """

    kappa: float | None
    low: float | None
    high: float | None
    exact: float
    n: int


def read_human_scores(
    path: Path, criteria: Sequence[str], scale: tuple[int, int], variants: Sequence[str] = ()
) -> dict[str | None, HumanScores]:
    """Read a CSV file with columns ``id``, ``criterion``, ``score`` and, where several variants
    were scored, ``variant``.

    Args:
        path: the file.
        criteria: the recipe's criteria.
        scale: lowest and highest score.
        variants: the judged variants.

    Returns:
        The scores of each variant's answers; under None where the file has no ``variant``.

    Raises:
        UsageError: the file or a column is missing, or a row has an unknown criterion or variant,
            a score off the scale, or repeats an answer and criterion; with file and line.
    """
    scores: dict[str | None, HumanScores] = {}
    for line, row in _read_rows(path):
        location = f"{path}, line {line}"
        id_, criterion, score = ((row[name] or "").strip() for name in COLUMNS)
        if criterion not in criteria:
            raise UsageError(
                f"{location}: unknown criterion '{criterion}'{nearest(criterion, criteria)}; "
                f"the recipe's criteria are {', '.join(criteria)}"
            )
        # Not `isdigit`, which is true of "²".
        if not score.isdecimal() or not scale[0] <= int(score) <= scale[1]:
            raise UsageError(
                f"{location}: '{score}' is not an integer from {scale[0]} to {scale[1]}"
            )
        # No column is not an empty cell, which names no variant.
        variant = (row[VARIANT] or "").strip() if VARIANT in row else None
        if variant is not None and variant not in variants:
            raise UsageError(
                f"{location}: unknown variant '{variant}'{nearest(variant, variants)}; "
                f"the judged variants are {', '.join(variants)}"
            )
        own = scores.setdefault(variant, {})
        if (id_, criterion) in own:
            raise UsageError(
                f"{location}: '{id_}' already has a score on {criterion}. Give one score per "
                "answer and criterion"
            )
        own[id_, criterion] = int(score)
    if not scores:
        raise UsageError(f"{path}: the file has no scores; the columns are id,criterion,score")
    return scores


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        # Excel writes a byte-order mark, which would be part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise UsageError(
                    f"{path}: missing column {', '.join(missing)}; the file has "
                    f"{', '.join(reader.fieldnames or []) or 'none'}"
                )
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise UsageError(f"judge.human: cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"judge.human: {path} is not a UTF-8 CSV file ({error})") from None


def agreement(
    human: Ints, judged: Ints, scale: tuple[int, int], resamples: int, confidence: float, seed: int
) -> Agreement:
    """Cohen's weighted kappa (1968) with quadratic weights between two raters.

    Args:
        human, judged: scores of the same answers, int [n].
        scale: lowest and highest score.
        resamples: bootstrap resamples.
        confidence: level of the interval.
        seed: seed of the bootstrap.

    Raises:
        ValueError: there are no scores.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(human) == 0:
        raise ValueError("no scores to compare")
    exact = float((human == judged).mean())
    # Chance agreement is 1 then, and kappa is 0 / 0.
    if len(np.unique(np.concatenate([human, judged]))) == 1:
        return Agreement(None, None, None, exact, len(human))
    # All scores of the scale: scikit-learn weighs by positions in this list, and a score that
    # nobody gave still separates its neighbours.
    labels = range(scale[0], scale[1] + 1)
    kappa = float(cohen_kappa_score(human, judged, labels=list(labels), weights="quadratic"))
    low, high = percentile_interval(resampled_kappas(human, judged, resamples, seed), confidence)
    known = not np.isnan(low)
    return Agreement(kappa, low if known else None, high if known else None, exact, len(human))


def resampled_kappas(human: Ints, judged: Ints, resamples: int, seed: int) -> Floats:
    """Quadratic kappa of every resample, float [R]; NaN where a resample has only one score.

    With squared differences as weights, the expected disagreement of independent raters needs only
    means: E(x-y)^2 = E x^2 + E y^2 - 2 (E x)(E y). A resample's kappa is a function of five sums.
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
    # Sums of small squares are exact, so only a resample with a single score falls below this.
    varies = expected > 1e-9
    return np.where(varies, 1 - means[:, 4] / np.where(varies, expected, 1.0), np.nan)
