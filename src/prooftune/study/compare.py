"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune import run_folder
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.answers.final_answers import answered
from prooftune.evaluation.answers.primary import answers_primary
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.decisions import apply_error_costs
from prooftune.evaluation.intervals import (
    SIGNED,
    Interval,
    paired_difference,
    paired_means_error,
    paired_means_interval,
)
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.multilabel.thresholds import label_sets
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.significance import mcnemar, permutation_p
from prooftune.evaluation.trainings import between_pairs, two_level_p, with_trainings
from prooftune.recipe import Task
from prooftune.recipe import load as load_recipe
from prooftune.report.format import p_relation, points
from prooftune.types import Example
from prooftune.utils.files import read_json
from prooftune.utils.label_sets import parse_label_set, set_f1

CONFIDENCE = 0.95
"""Level of the interval, and one minus the significance level of the test."""

Key = tuple[str, ...]
"""Identifies an example across runs: its texts, its target, and which repetition of both it is."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two variants of two runs on the test examples that both runs have.

    ``str(comparison)`` is the paragraph that ``prooftune compare`` prints.

    Attributes:
        task: task of both runs.
        first, second: the variants, as ``RUN:VARIANT``.
        metric: what is compared: ``accuracy``, ``F1`` or ``ROUGE-L``.
        n: shared test examples.
        first_mean, second_mean: the metric on these, 0 to 1.
        difference: first minus second, with its 95% interval, -1 to 1.
        p_value: exact McNemar test for labels, sign-flip permutation test for answers; with several
            trainings `evaluation.trainings.two_level_p`; unadjusted.
        only_first, only_second: examples that only one of the variants labels correctly; None for
            answers, and with several trainings.
        left_out: test examples that only one of the runs has.
        trainings: number of trainings of both variants, over which their metrics are means.
    """

    task: Task
    first: str
    second: str
    metric: str
    n: int
    first_mean: float
    second_mean: float
    difference: Interval
    p_value: float
    only_first: int | None
    only_second: int | None
    left_out: int
    trainings: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        share = f"mean {self.metric} on {self.n:,} shared test questions"
        if self.task == "classification":
            share = f"of {self.n:,} shared test examples right"
        elif self.task == "multilabel":
            share = f"mean {self.metric} on {self.n:,} shared test examples"
        if max(self.trainings) > 1:
            test = f"test over examples and trainings p {p_relation(self.p_value)}"
        elif self.only_first is not None:
            test = (
                f"exact McNemar p {p_relation(self.p_value)} ({self.only_first} right only in the "
                f"first, {self.only_second} only in the second)"
            )
        else:
            test = f"sign-flip test p {p_relation(self.p_value)}"
        significant = self.p_value < 1 - CONFIDENCE
        low, high = points(self.difference.low), points(self.difference.high)
        lines = [
            f"{self.first}: {self.first_mean:.1%} {share}{_mean_of(self.trainings[0])}",
            f"{self.second}: {self.second_mean:.1%}{_mean_of(self.trainings[1])}",
            f"difference {points(self.difference.value)} points, {CONFIDENCE:.0%} interval "
            f"[{low}, {high}]; {test}: the two "
            f"{'can' if significant else 'cannot'} be told apart.",
            "p is of this one comparison; a report's are adjusted for all that it makes, and so "
            "larger.",
        ]
        if self.left_out:
            examples = "example is" if self.left_out == 1 else "examples are"
            lines.append(
                f"{self.left_out:,} test {examples} in only one of the runs, and not compared."
            )
        return "\n".join(lines)


def _mean_of(trainings: int) -> str:
    return f" (mean of {trainings} trainings)" if trainings > 1 else ""


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two variants: its task, its name, and its scores for each test example, one of
    every training: 1 or 0 for a label, the primary metric for an answer."""

    task: Task
    name: str
    metric: str
    scores: dict[Key, list[float]]


def compare_runs(first: str, second: str) -> RunComparison:
    """Compare two variants: accuracy with the exact McNemar test for labels, mean F1 or ROUGE-L
    with a sign-flip test for answers; means over trainings where there are several.

    Examples are paired by content, not by id: runs may read the same rows from different files.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``. Default variant: the one in the run's bundle.
        second: likewise.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    a = _side(first)
    # By the first run's metric: two metrics have no difference.
    b = _side(second, a.metric)
    if a.task != b.task:
        raise UsageError(
            f"{first} is a study of {a.task} and {second} one of {b.task}: they cannot be compared"
        )
    shared = [key for key in a.scores if key in b.scores]
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    # [T, n] each, in the order of the first run's examples.
    left, right = (np.array([side.scores[key] for key in shared]).T for side in (a, b))
    once = len(left) == len(right) == 1
    mcnemar_test = None
    if not once:
        difference, p_value = _over_trainings(left, right)
    else:
        if a.task == "classification":
            mcnemar_test = mcnemar(left[0] == 1, right[0] == 1)
        p_value = mcnemar_test.p if mcnemar_test else permutation_p(left[0] - right[0], seed=0)
        difference = paired_difference(left[0], right[0], seed=0, confidence=CONFIDENCE)
    ends = consistent(
        {"value": difference.value, "low": difference.low, "high": difference.high},
        p_value < 1 - CONFIDENCE,
    )
    return RunComparison(
        task=a.task,
        first=a.name,
        second=b.name,
        metric=title_of(a.metric),
        n=len(shared),
        first_mean=float(left.mean()),
        second_mean=float(right.mean()),
        difference=Interval(ends["value"], ends["low"], ends["high"]),
        p_value=p_value,
        only_first=mcnemar_test.b if mcnemar_test else None,
        only_second=mcnemar_test.c if mcnemar_test else None,
        left_out=len(a.scores) + len(b.scores) - 2 * len(shared),
        trainings=(len(left), len(right)),
    )


def _over_trainings(left: Floats, right: Floats) -> tuple[Interval, float]:
    """Difference of means over trainings, with the p-value, from scores [T, n] of the same
    examples."""
    differences = left.mean(axis=0) - right.mean(axis=0)
    # Not paired: training k of one run has nothing in common with training k of another.
    components = between_pairs(left.mean(axis=1), right.mean(axis=1), paired=False)
    rows = paired_means_interval(differences, CONFIDENCE)
    error = paired_means_error(differences)[1]
    return (
        with_trainings(rows, components, CONFIDENCE, SIGNED),
        two_level_p(rows.value, error, len(differences), components),
    )


def _side(reference: str, metric: str | None = None) -> _Side:
    path, variant = _split(reference)
    folder = run_folder.open_run(Path(path))
    recipe, _ = load_recipe(folder / "recipe.yaml")
    # `next`: any variant as an example for the message.
    variant = variant or _bundled(folder, next(iter(recipe.variants)))
    if variant not in recipe.variants:
        raise UsageError(
            f"{folder} has no variant '{variant}'; it has {', '.join(recipe.variants)}"
            f"{nearest(variant, recipe.variants)}"
        )
    if not all(
        (run_folder.training_folder(folder / "variants", variant, i) / "details.json").is_file()
        for i in range(recipe.trainings(variant))
    ):
        raise UsageError(
            f"{folder} is not finished: no predictions of {variant}. Run its recipe again to go on."
        )
    study = run_folder.read_study(folder / "data")
    kind, trainings = recipe.variants[variant].system, recipe.trainings(variant)
    result = run_folder.read_result(folder / "variants" / variant, kind, trainings)
    if recipe.task == "multilabel":
        # A mean over rows, unlike micro F1, so that runs on different rows can share a test.
        metric = "samples_f1"
        by_training = [
            np.array([set_f1(parse_label_set(p.output), e.targets) for p, e in rows])
            for rows in (
                zip(label_sets(study, t, recipe.evaluation).outputs, study.test, strict=True)
                for t in result.trainings
            )
        ]
    elif recipe.task == "classification":
        metric = "accuracy"
        _, decided = apply_error_costs(recipe, study, [result])
        by_training = [test.correct * 1.0 for test, _ in outcomes_of(study, decided)[variant]]
    else:
        judged_by = metric = metric or answers_primary(study, recipe)[0]
        by_training = [
            answered(study, training, recipe, judged_by).primary for training in result.trainings
        ]
    scores = np.stack(by_training, axis=1)
    return _Side(
        recipe.task,
        f"{path}:{variant}",
        metric,
        dict(zip(_keys(study.test), scores.tolist(), strict=True)),
    )


def _split(reference: str) -> tuple[str, str]:
    """The run folder and the variant; a colon may also be part of the folder's name."""
    if Path(reference).is_dir():
        return reference, ""
    # From the right: a folder's name may contain a colon.
    path, colon, variant = reference.rpartition(":")
    return (path, variant) if colon else (reference, "")


def _bundled(folder: Path, example: str) -> str:
    manifest = folder / "bundle" / "bundle.json"
    if not manifest.is_file():
        raise UsageError(f"{folder} has no bundle; name a variant: {folder}:{example}")
    return str(read_json(manifest)["variant"])


def _keys(examples: Sequence[Example]) -> list[Key]:
    """Content of every example, numbered because the same content may occur more than once."""
    seen: Counter[Key] = Counter()
    keys = []
    for example in examples:
        content = (*example.inputs.values(), str(example.target), *(example.references or ()))
        keys.append((*content, str(seen[content])))
        seen[content] += 1
    return keys
