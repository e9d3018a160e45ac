"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune import recipe as recipes
from prooftune import run_folder
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.answers.scores import PRIMARY, answered
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.statistics import mcnemar, paired_difference, permutation_p
from prooftune.types import Example
from prooftune.utils.files import read_json

CONFIDENCE = 0.95

Key = tuple[str, ...]
"""What makes two examples of two runs the same: their texts, their label, and which repetition of
them it is."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two variants: its task, how it is called, and how well it answered each test
    example: 1 or 0 for a label, the primary metric for an answer."""

    task: recipes.Task
    name: str
    quality: dict[Key, float]


def compare_runs(first: str, second: str) -> str:
    """A paragraph with both accuracies, their difference with its interval, and the exact McNemar
    test; for questions the means of F1 or ROUGE-L with a sign-flip test.

    Examples are paired by what they hold, not by their ids: runs may read the same rows from other
    files.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``; without a variant, the one in the run's bundle.
        second: likewise.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    a, b = _side(first), _side(second)
    if a.task != b.task:
        raise UsageError(
            f"{first} is a study of {a.task} and {second} one of {b.task}: they cannot be compared"
        )
    shared = [key for key in a.quality if key in b.quality]
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    left, right = (np.array([side.quality[key] for key in shared]) for side in (a, b))
    difference = paired_difference(left, right, seed=0, confidence=CONFIDENCE)
    if a.task == "classification":
        what = "of {n:,} shared test examples right"
        test = mcnemar(left == 1, right == 1)
        p, tested = (
            test.p,
            f"exact McNemar p = {test.p:.3g} ({test.b} right only in the first, {test.c} only in "
            "the second)",
        )
    else:
        what = f"mean {PRIMARY[a.task][1]} on {{n:,}} shared test questions"
        p = permutation_p(left - right, seed=0)
        tested = f"sign-flip test p = {p:.3g}"
    verdict = "can be told apart" if p < 1 - CONFIDENCE else "cannot be told apart"
    lines = [
        f"{a.name}: {left.mean():.1%} {what.format(n=len(shared))}",
        f"{b.name}: {right.mean():.1%}",
        f"difference {100 * difference.value:+.1f} points, {CONFIDENCE:.0%} interval "
        f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]; {tested}: the two "
        f"{verdict}.",
        "p is of this one comparison; a report's are adjusted for all that it makes, and so "
        "larger.",
    ]
    left_out = len(a.quality) + len(b.quality) - 2 * len(shared)
    if left_out:
        stand = "example stands" if left_out == 1 else "examples stand"
        lines.append(f"{left_out:,} test {stand} in only one of the runs and were left out.")
    return "\n".join(lines)


def _side(reference: str) -> _Side:
    place, variant = _split(reference)
    folder = run_folder.open_run(Path(place))
    recipe, _ = recipes.load(folder / "recipe.yaml")
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
        quality = test.correct.astype(np.float64)
    else:
        quality = answered(study, result, recipe).primary
    return _Side(
        recipe.task,
        f"{place}:{variant}",
        dict(zip(_keys(study.test), quality.tolist(), strict=True)),
    )


def _split(reference: str) -> tuple[str, str]:
    """The run folder and the variant; a colon may also be part of the folder's name."""
    if Path(reference).is_dir():
        return reference, ""
    place, colon, variant = reference.rpartition(":")
    return (place, variant) if colon else (reference, "")


def _bundled(folder: Path, example: str) -> str:
    facts = folder / "bundle" / "bundle.json"
    if not facts.is_file():
        raise UsageError(f"{folder} has no bundle; name a variant: {folder}:{example}")
    return str(read_json(facts)["variant"])


def _keys(examples: Sequence[Example]) -> list[Key]:
    """Content of every example, numbered where the same text and label stand more than once."""
    seen: Counter[Key] = Counter()
    keys = []
    for example in examples:
        content = (*example.inputs.values(), str(example.target), *(example.references or ()))
        keys.append((*content, str(seen[content])))
        seen[content] += 1
    return keys
