"""``prooftune compare RUN RUN``: two variants of two runs on the test examples that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prooftune import recipe, runs
from prooftune.errors import UsageError, nearest
from prooftune.evaluation import statistics
from prooftune.files import read_json
from prooftune.records import Example, Prediction


def compare_runs(first: str, second: str) -> str:
    """A paragraph with both accuracies, their difference with its interval, and the exact McNemar test.

    Args:
        first, second: ``RUN`` or ``RUN:VARIANT``; without a variant, the one in the run's bundle.

    Raises:
        UsageError: a run or variant does not exist, or the runs share no test example.
    """
    (name_a, a), (name_b, b) = _correct(first), _correct(second)
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise UsageError(f"{first} and {second} share no test example, so they cannot be compared")
    left, right = (np.array([side[key] for key in shared]) for side in (a, b))
    difference = statistics.paired_difference(left, right, seed=0)
    test = statistics.mcnemar(left, right)
    verdict = "can be told apart" if test.p < 0.05 else "cannot be told apart"
    left_out = len(a.keys() | b.keys()) - len(shared)
    return (
        f"{name_a}: {left.mean():.1%} of {len(shared):,} shared test examples right\n"
        f"{name_b}: {right.mean():.1%}\n"
        f"difference {difference.value:+.1%} [{difference.low:+.1%}, {difference.high:+.1%}], exact McNemar p = {test.p:.3g} "
        f"({test.b} right only in the first, {test.c} only in the second): the two {verdict}."
        + (f"\n{left_out:,} examples stand in only one of the runs and were left out." if left_out else ""))


def _correct(reference: str) -> tuple[str, dict[tuple[str, ...], bool]]:
    """Display name, and for each test example, by its texts and label, whether it was answered rightly."""
    place, _, variant = reference.partition(":") if not Path(reference).is_dir() else (reference, "", "")
    folder = runs.open_run(Path(place))
    chosen, _ = recipe.load(folder / "recipe.yaml")
    if not variant:
        bundle = folder / "bundle" / "bundle.json"
        if not bundle.is_file():
            raise UsageError(f"{folder} has no bundle; name a variant: {place}:{next(iter(chosen.variants))}")
        variant = read_json(bundle)["variant"]
    if variant not in chosen.variants:
        raise UsageError(f"{folder} has no variant '{variant}'; it has {', '.join(chosen.variants)}{nearest(variant, chosen.variants)}")
    path = folder / "variants" / variant / "predictions.parquet"
    if not path.is_file():
        raise UsageError(f"{folder} is not finished: no predictions of {variant}. Run its recipe again to go on.")
    test = runs.read_study(folder / "data").test
    return f"{place}:{variant}", {_key(e): _right(e, p) for e, p in zip(test, runs.read_predictions(path), strict=True)}


def _key(example: Example) -> tuple[str, ...]:
    return (*example.inputs.values(), example.target or "")


def _right(example: Example, prediction: Prediction) -> bool:
    return prediction.output == example.target
