"""Agreement of the judge with human raters who scored the same answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune.errors import UsageError, nearest
from prooftune.evaluation.intervals import SIGNED, resampling_interval
from prooftune.evaluation.means import Resampling
from prooftune.evaluation.metrics import Floats, Ints, Outcomes, columns, rates, sums
from prooftune.evaluation.resampling import Groups, label_prior, resample

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
        low, high: bounds of its interval; None where undefined.
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
    human: Ints,
    judged: Ints,
    resampling: Resampling,
    groups: Groups | None = None,
) -> Agreement:
    """Cohen's weighted kappa (1968) with quadratic weights between two raters.

    Args:
        human, judged: scores of the same answers, int [n].
        resampling: number, level and seed of the interval.
        groups: the groups in which the answers come.

    Raises:
        ValueError: there are no scores.
    """
    if len(human) == 0:
        raise ValueError("no scores to compare")
    exact = float((human == judged).mean())
    # Scores that nobody gave have no pseudo-examples; the distances of the others stay.
    scale = np.unique(np.concatenate([human, judged]))
    # Chance agreement is 1 then, and kappa is 0 / 0.
    if len(scale) == 1:
        return Agreement(None, None, None, exact, len(human))
    targets, predicted = np.searchsorted(scale, human), np.searchsorted(scale, judged)
    values = scale.astype(np.float64)
    rated = Outcomes(targets, predicted, None, len(scale), values)
    table = columns(rated)
    count, seed = resampling.resamples, resampling.seed
    prior = label_prior(len(scale), table.shape[1], count, seed, 0, values)
    [drawn] = resample([table], count, seed, groups, [prior])
    samples = drawn.map(lambda summed: {"kappa": _kappa(summed, len(scale), values)})["kappa"]
    kappa = float(_kappa(table.sum(axis=0), len(scale), values))
    ends = resampling_interval(kappa, samples, resampling.confidence, SIGNED)
    return Agreement(kappa, ends.low, ends.high, exact, len(human))


def _kappa(summed: Floats, classes: int, scale: Floats) -> Floats:
    """Quadratic kappa from summed columns [..., c]; not-a-number where only one score occurs."""
    total = sums(summed, classes, scale)
    kappa = rates(total)["quadratic_kappa"]
    # `rates` gives 0 / 0 the value 0; without any disagreement kappa is 1 otherwise.
    return np.where((kappa == 0) & (total.squared_error == 0), np.nan, kappa)
