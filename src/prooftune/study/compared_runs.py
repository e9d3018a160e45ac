"""What ``prooftune compare`` reads of a run: one variant, and its figures on chosen test rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prooftune import run_folder
from prooftune.errors import UsageError, nearest
from prooftune.evaluation.answers.final_answers import answered
from prooftune.evaluation.answers.primary import answers_primary
from prooftune.evaluation.comparison_plan import Measured, measured_once
from prooftune.evaluation.decisions import apply_error_costs
from prooftune.evaluation.metrics import INVALID, Floats, Outcomes, columns, rates, sums
from prooftune.evaluation.multilabel import metrics as label_set_metrics
from prooftune.evaluation.multilabel.thresholds import PRIMARY, label_sets
from prooftune.evaluation.outcomes import groups_among, outcomes_of
from prooftune.evaluation.primary import classification_primary, title_of
from prooftune.evaluation.repeated_trainings import average
from prooftune.evaluation.resampling import Groups, label_prior, resample
from prooftune.recipe import Recipe
from prooftune.recipe import load as load_recipe
from prooftune.recipe.metrics import COST_METRICS, ORDINAL_METRICS
from prooftune.types import Study, VariantResult
from prooftune.utils.files import read_json
from prooftune.utils.label_sets import parse_label_set

RESAMPLES = 2000
"""Bootstrap resamples of the interval."""
SEED = 0
"""Of resamples and swaps: the same runs give the same figures."""

Key = tuple[str, ...]
"""Identifies an example across runs: its texts, its target, and which repetition of both it is."""
Measure = Callable[[Floats], Mapping[str, Floats]]
"""From summed columns [..., c] to metrics [...] by name."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A variant of a finished run: its name as ``RUN:VARIANT``, and what the run holds of it."""

    name: str
    recipe: Recipe
    study: Study
    result: VariantResult

    def metric(self) -> str:
        """The metric that judges the study."""
        if self.recipe.task == "multilabel":
            return self.recipe.evaluation.primary or PRIMARY
        if self.recipe.task == "classification":
            return classification_primary(self.study, self.recipe.evaluation)[0]
        return answers_primary(self.study, self.recipe)[0]

    def keys(self) -> list[Key]:
        """Content of every test example, numbered because it may occur more than once."""
        seen: Counter[Key] = Counter()
        keys = []
        for example in self.study.test:
            content = (*example.inputs.values(), str(example.target), *(example.references or ()))
            keys.append((*content, str(seen[content])))
            seen[content] += 1
        return keys


def read_run(reference: str) -> ComparedRun:
    """Read ``RUN`` or ``RUN:VARIANT``.

    Raises:
        UsageError: the run or the variant does not exist, or the run is not finished.
    """
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
    return ComparedRun(f"{path}:{variant}", recipe, study, result)


def shared_groups(
    runs: Sequence[ComparedRun], rows: Sequence[Sequence[int]]
) -> tuple[Groups | None, str]:
    """The groups in which shared test examples come, and what makes them, by the first run that
    knows any (see `groups_among`); None where every example stands alone.

    Args:
        runs: the two.
        rows: of each run the numbers of the shared test examples, in one order.
    """
    for run, numbers in zip(runs, rows, strict=True):
        groups, grouped_by = groups_among([run.study.test[i] for i in numbers])
        if groups is not None:
            return groups, grouped_by
    return None, ""


def measure_runs(
    runs: Sequence[ComparedRun],
    rows: Sequence[Sequence[int]],
    metric: str,
    groups: Groups | None = None,
) -> tuple[list[Measured], Measure]:
    """Figures of both runs on the same examples and the same resamples.

    Args:
        runs: the two.
        rows: of each run the numbers of the shared test examples, in one order.
        metric: the metric to compare.
        groups: of the shared test examples, which are resampled as a whole.

    Returns:
        The figures, and the metrics as functions of column sums.

    Raises:
        UsageError: the studies' labels cannot be measured together.
    """
    if runs[0].recipe.task == "classification":
        return _measure_labels(runs, rows, metric, groups)
    if runs[0].recipe.task == "multilabel":
        return _measure_label_sets(runs, rows, groups)

    def mean(summed: Floats) -> dict[str, Floats]:
        return {metric: summed[..., 1] / summed[..., 0]}

    tables = []
    for run, numbers in zip(runs, rows, strict=True):
        scores = [
            answered(run.study, training, run.recipe, metric).primary[np.array(numbers)]
            for training in run.result.trainings
        ]
        tables.append([np.stack([np.ones(len(each)), each], axis=1) for each in scores])
    # No answer is simply right.
    correct = [[table[:, 1] > 1 for table in part] for part in tables]
    return _measured(tables, correct, mean, groups), mean


def _measure_labels(
    runs: Sequence[ComparedRun],
    rows: Sequence[Sequence[int]],
    metric: str,
    groups: Groups | None,
) -> tuple[list[Measured], Measure]:
    labels = _all_labels(runs)
    first = runs[0].study
    scale = np.array(first.scale, dtype=np.float64) if metric in ORDINAL_METRICS else None
    costs = np.array(first.costs, dtype=np.float64) if metric in COST_METRICS else None
    if (scale is not None or costs is not None) and len(labels) > len(first.labels):
        raise UsageError(
            f"{runs[0].name} is judged by {title_of(metric)}, and has no "
            f"{', '.join(labels[len(first.labels) :])}, a label of {runs[1].name}: they cannot be "
            "compared"
        )
    outcomes = [
        [
            _renumbered(test.at(np.array(numbers)), run.study.labels, labels, scale, costs)
            for test, _ in outcomes_of(
                run.study, apply_error_costs(run.recipe, run.study, [run.result])[1]
            )[run.result.name]
        ]
        for run, numbers in zip(runs, rows, strict=True)
    ]

    def measure(summed: Floats) -> dict[str, Floats]:
        return rates(sums(summed, len(labels), scale, costs))

    tables = [[columns(test) for test in part] for part in outcomes]
    priors = [
        label_prior(len(labels), part[0].shape[1], RESAMPLES, SEED, number, scale, costs)
        for number, part in enumerate(tables)
    ]
    correct = [[test.correct for test in part] for part in outcomes]
    return _measured(tables, correct, measure, groups, priors), measure


def _renumbered(
    outcomes: Outcomes,
    own: Sequence[str],
    labels: Sequence[str],
    scale: Floats | None,
    costs: Floats | None,
) -> Outcomes:
    """Outcomes by the numbers of other labels, without probabilities."""
    # The last number is that of invalid outputs, which `INVALID` indexes.
    numbers = np.array([*map(list(labels).index, own), INVALID], dtype=np.int64)
    return Outcomes(
        numbers[outcomes.targets], numbers[outcomes.predicted], None, len(labels), scale, costs
    )


def _measure_label_sets(
    runs: Sequence[ComparedRun], rows: Sequence[Sequence[int]], groups: Groups | None
) -> tuple[list[Measured], Measure]:
    labels = _all_labels(runs)
    tables, correct = [], []
    for run, numbers in zip(runs, rows, strict=True):
        targets = label_set_metrics.label_matrix(
            (run.study.test[i].targets for i in numbers), labels
        )
        outputs = [
            label_sets(run.study, training, run.recipe.evaluation).outputs
            for training in run.result.trainings
        ]
        predicted = [
            label_set_metrics.label_matrix((parse_label_set(o[i].output) for i in numbers), labels)
            for o in outputs
        ]
        tables.append([label_set_metrics.columns(targets, p) for p in predicted])
        correct.append([np.asarray((p == targets).all(axis=1)) for p in predicted])
    priors = [
        label_set_metrics.set_prior(len(labels), RESAMPLES, SEED, number) for number in range(2)
    ]
    measured = _measured(tables, correct, label_set_metrics.rates, groups, priors)
    return measured, label_set_metrics.rates


def _all_labels(runs: Sequence[ComparedRun]) -> list[str]:
    return list(dict.fromkeys(label for run in runs for label in run.study.labels))


def _measured(
    tables: Sequence[Sequence[Floats]],
    correct: Sequence[Sequence[np.ndarray]],
    measure: Measure,
    groups: Groups | None,
    priors: Sequence[Floats] | None = None,
) -> list[Measured]:
    """Figures from the tables [n, c] of every training of both runs; `priors`: one of each run."""
    flat = [table for part in tables for table in part]
    of_tables = priors and [p for p, part in zip(priors, tables, strict=True) for _ in part]
    drawn = iter(resample(flat, RESAMPLES, SEED, groups, of_tables))
    result = []
    for number, part in enumerate(tables):
        trainings = []
        for table, right in zip(part, correct[number], strict=True):
            values = {n: float(v) for n, v in measure(table.sum(axis=0)).items()}
            # Trainings of two runs have nothing in common: each run has other weights.
            samples = next(drawn).map(measure)
            trainings.append(measured_once(table, values, samples, right, str(number)))
        result.append(average(trainings))
    return result


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
