"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune import run_folder
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.answers.primary import answers_primary
from prooftune.evaluation.answers.scores import answered
from prooftune.evaluation.comparisons import consistent
from prooftune.evaluation.intervals import Interval, paired_difference
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.primary import title_of
from prooftune.evaluation.significance import mcnemar, permutation_p
from prooftune.recipe import Task
from prooftune.recipe import load as load_recipe
from prooftune.types import Example
from prooftune.utils.files import read_json

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
        p_value: exact McNemar test for labels, sign-flip permutation test for answers; unadjusted.
        only_first, only_second: examples that only one of the variants labels correctly; None for
            answers.
        left_out: test examples that only one of the runs has.
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

    def __str__(self) -> str:
        if self.only_first is not None:
            share = f"of {self.n:,} shared test examples right"
            test = (
                f"exact McNemar p = {self.p_value:.3g} ({self.only_first} right only in the first, "
                f"{self.only_second} only in the second)"
            )
        else:
            share = f"mean {self.metric} on {self.n:,} shared test questions"
            test = f"sign-flip test p = {self.p_value:.3g}"
        significant = self.p_value < 1 - CONFIDENCE
        low, high = self.difference.low, self.difference.high
        lines = [
            f"{self.first}: {self.first_mean:.1%} {share}",
            f"{self.second}: {self.second_mean:.1%}",
            f"difference {100 * self.difference.value:+.1f} points, {CONFIDENCE:.0%} interval "
            f"[{100 * low:+.1f}, {100 * high:+.1f}]; {test}: the two "
            f"{'can' if significant else 'cannot'} be told apart.",
            "p is of this one comparison; a report's are adjusted for all that it makes, and so "
            "larger.",
        ]
        if self.left_out:
            examples = "example stands" if self.left_out == 1 else "examples stand"
            lines.append(
                f"{self.left_out:,} test {examples} in only one of the runs and were left out."
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two variants: its task, its name, and its score for each test example: 1 or 0 for
    a label, the primary metric for an answer."""

    task: Task
    name: str
    metric: str
    scores: dict[Key, float]


def compare_runs(first: str, second: str) -> RunComparison:
    """Compare two variants: accuracy with the exact McNemar test for labels, mean F1 or ROUGE-L
    with a sign-flip test for answers.

    Examples are paired by content, not by id: runs may read the same rows from different files.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``. Default variant: the one in the run's bundle.
        second: likewise.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    a = _side(first)
    b = _side(second, a.metric)
    if a.task != b.task:
        raise UsageError(
            f"{first} is a study of {a.task} and {second} one of {b.task}: they cannot be compared"
        )
    shared = [key for key in a.scores if key in b.scores]
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    left, right = (np.array([side.scores[key] for key in shared]) for side in (a, b))
    mcnemar_test = mcnemar(left == 1, right == 1) if a.task == "classification" else None
    p_value = mcnemar_test.p if mcnemar_test else permutation_p(left - right, seed=0)
    difference = paired_difference(left, right, seed=0, confidence=CONFIDENCE)
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
        difference=Interval(**ends),
        p_value=p_value,
        only_first=mcnemar_test.b if mcnemar_test else None,
        only_second=mcnemar_test.c if mcnemar_test else None,
        left_out=len(a.scores) + len(b.scores) - 2 * len(shared),
    )


def _side(reference: str, metric: str | None = None) -> _Side:
    path, variant = _split(reference)
    folder = run_folder.open_run(Path(path))
    recipe, _ = load_recipe(folder / "recipe.yaml")
    variant = variant or _bundled(folder, next(iter(recipe.variants)))
    if variant not in recipe.variants:
        raise UsageError(
            f"{folder} has no variant '{variant}'; it has {', '.join(recipe.variants)}"
            f"{nearest(variant, recipe.variants)}"
        )
    if not (folder / "variants" / variant / "details.json").is_file():
        raise UsageError(
            f"{folder} is not finished: no predictions of {variant}. Run its recipe again to go on."
        )
    study = run_folder.read_study(folder / "data")
    result = run_folder.read_result(folder / "variants" / variant, recipe.variants[variant].kind)
    if recipe.task == "classification":
        test, _ = outcomes_of(study, [result])[variant]
        scores, metric = test.correct.astype(np.float64), "accuracy"
    else:
        metric = metric or answers_primary(study, recipe)[0]
        scores = answered(study, result, recipe, metric).primary
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
