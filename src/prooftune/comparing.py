"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune import recipe, runs
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.statistics import mcnemar, paired_difference
from prooftune.files import read_json
from prooftune.records import Example

CONFIDENCE = 0.95

Key = tuple[str, ...]
"""What makes two examples of two runs the same: their texts, their label, and which repetition of them it is."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two variants: how it is called, and whether it answered each test example rightly."""

    name: str
    correct: dict[Key, bool]


def compare_runs(first: str, second: str) -> str:
    """A paragraph with both accuracies, their difference with its interval, and the exact McNemar test.

    Examples are paired by what they hold, not by their ids: runs may read the same rows from other files.

    Args:
        first: ``RUN`` or ``RUN:VARIANT``; without a variant, the one in the run's bundle.
        second: likewise.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    a, b = _side(first), _side(second)
    shared = [key for key in a.correct if key in b.correct]
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    left, right = (np.array([side.correct[key] for key in shared]) for side in (a, b))
    difference = paired_difference(left, right, seed=0, confidence=CONFIDENCE)
    test = mcnemar(left, right)
    verdict = "can be told apart" if test.p < 1 - CONFIDENCE else "cannot be told apart"
    lines = [
        f"{a.name}: {left.mean():.1%} of {len(shared):,} shared test examples right",
        f"{b.name}: {right.mean():.1%}",
        f"difference {100 * difference.value:+.1f} points, {CONFIDENCE:.0%} interval "
        f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]; exact McNemar p = {test.p:.3g} "
        f"({test.b} right only in the first, {test.c} only in the second): the two {verdict}."]
    left_out = len(a.correct) + len(b.correct) - 2 * len(shared)
    if left_out:
        stand = "example stands" if left_out == 1 else "examples stand"
        lines.append(f"{left_out:,} test {stand} in only one of the runs and were left out.")
    return "\n".join(lines)


def _side(reference: str) -> _Side:
    place, variant = _split(reference)
    folder = runs.open_run(Path(place))
    chosen, _ = recipe.load(folder / "recipe.yaml")
    variant = variant or _bundled(folder, next(iter(chosen.variants)))
    if variant not in chosen.variants:
        raise UsageError(f"{folder} has no variant '{variant}'; it has {', '.join(chosen.variants)}"
                         f"{nearest(variant, chosen.variants)}")
    if not (folder / "variants" / variant / "details.json").is_file():
        raise UsageError(f"{folder} is not finished: no predictions of {variant}. Run its recipe again to go on.")
    study = runs.read_study(folder / "data")
    result = runs.read_result(folder / "variants" / variant, chosen.variants[variant].kind)
    test, _ = outcomes_of(study, [result])[variant]
    return _Side(f"{place}:{variant}", dict(zip(_keys(study.test), test.correct.tolist(), strict=True)))


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


def _keys(examples: list[Example]) -> list[Key]:
    """Content of every example, numbered where the same text and label stand more than once."""
    seen: Counter[Key] = Counter()
    keys = []
    for example in examples:
        content = (*example.inputs.values(), str(example.target))
        keys.append((*content, str(seen[content])))
        seen[content] += 1
    return keys
