"""Evaluate a bundle on a labelled file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prooftune import recipe as recipes
from prooftune.bundle.load import load
from prooftune.bundle.manifest import AnyManifest, CommonManifest
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle_evaluation.drift import (
    label_set_shift,
    label_shift,
    length_shift,
    metric_changes,
)
from prooftune.bundle_evaluation.measures import (
    bundle_figures,
    measure_abstention,
    measure_bundles,
    without_study,
)
from prooftune.bundle_evaluation.predictions import predict_rows
from prooftune.bundle_evaluation.render import write_evaluation
from prooftune.bundle_evaluation.rows import LabelledRows, read_rows, sample_rows
from prooftune.bundle_evaluation.sentences import verdict_sentence
from prooftune.bundle_evaluation.slices import slice_scores
from prooftune.bundle_evaluation.types import BundleComparison, Drift, EvaluationFacts
from prooftune.errors import UsageError
from prooftune.evaluation.measurements import tidy
from prooftune.evaluation.score_types import Figure, Scores
from prooftune.recipe import Recipe
from prooftune.types import Example, VariantResult
from prooftune.version import __version__


@dataclass(frozen=True, slots=True)
class BundleEvaluation:
    """The metrics of a bundle on labelled rows, and how they differ from its study's.

    Attributes:
        bundle: the bundle's folder.
        file: the labelled file.
        n: number of rows.
        primary: name of the primary metric.
        metrics: metric name -> ``value``, ``low``, ``high``; shares are 0 to 1.
        drift: ``metrics``: change since the study by metric (`drift.metric_changes`); ``labels``:
            change of label shares (`drift.label_shift`, `drift.label_set_shift`), or None.
        comparison: paired comparison with another bundle (`evaluation.comparisons.compare`); None
            without one.
        verdict: the result in plain English.
        facts: all figures, the content of ``report.json``.
    """

    bundle: Path
    file: str
    n: int
    primary: str
    metrics: dict[str, Figure]
    drift: Drift
    comparison: BundleComparison | None
    verdict: str
    facts: EvaluationFacts = field(repr=False)


def evaluate_bundle(
    bundle: Path,
    file: str | Path,
    *,
    text: Sequence[str] | None = None,
    label: str | None = None,
    slices: Sequence[str] = (),
    limit: int | None = None,
    against: Path | None = None,
    out: Path | None = None,
) -> BundleEvaluation:
    """Predict every row of a labelled file and compare with its labels or reference answers.

    Args:
        bundle: a bundle folder.
        file: a labelled file, folder or glob pattern, in any format of a study's data.
        text: columns of the bundle's input fields. Default: those of its study.
        label: column of the labels or answers. Default: that of its study.
        slices: columns of the file; the results are also given for each of their values.
        limit: evaluate a random sample of this many rows. Default: all rows.
        against: another bundle of the same task and labels, to compare on the same rows.
        out: folder for ``report.html``, ``report.json`` and ``report.md``. Default: nothing is
            written.

    Raises:
        UsageError: a bundle or the file cannot be used, or rows have labels that the bundle does
            not know.
        Failure: a base model could not be loaded, or the folder cannot be written.
    """
    # Both files are read and compared before a model is loaded, which may take minutes.
    manifest, recipe = _open(bundle)
    rows = read_rows(file, manifest, recipe, text, label, slices)
    other_rows = _other_rows(bundle, against, manifest, rows, file, text, label)
    if limit is not None:
        rows, other_rows = sample_rows(limit, recipe.seed, rows, other_rows)
    shared: dict[str, Any] = {}  # two adapters on one base model
    labels = manifest["labels"]
    result, abstained = predict_rows(
        load(bundle, shared), rows.examples, labels, str(bundle), bundle
    )
    results = [result]
    if against is not None and other_rows is not None:
        results.append(_predict_other(against, other_rows, labels, shared))
    scores = measure_bundles(manifest, recipe, rows.examples, results)
    comparisons, study, confidence = (
        scores["comparisons"],
        manifest.get("study"),
        scores["confidence"],
    )
    measured = scores["variants"][result.name]
    counts = study.get("label_counts", {}) if study else {}
    values: dict[str, Any] = {
        "bundle": str(bundle),
        "study": study["name"] if study else None,
        "variant": manifest["variant"],
        "file": str(file),
        "prooftune_version": __version__,
        **without_study(scores),
        "notes": [*rows.notes, *scores["notes"]],
        **bundle_figures(measured),
        "abstention": measure_abstention(manifest, rows.examples, result, abstained, confidence),
        "drift": {
            "metrics": metric_changes(
                scores, measured["metrics"], study, manifest.get("temperature")
            )
            if study
            else {},
            "labels": label_shift(scores["support"], counts.get("test"), confidence)
            # Labels of one text depend on one another, and the test needs independent counts.
            if scores["task"] == "classification"
            else label_set_shift(
                scores["support"], scores["n"], counts.get("test"), study["n"] if study else None
            ),
            "lengths": length_shift(
                rows.examples, study.get("text_lengths") if study else None, confidence
            ),
        },
        "slices": {
            column: slice_scores(
                rows.examples,
                result,
                values_of_column,
                scores["primary"],
                confidence,
                partial(_primary, manifest, recipe, scores["primary"]),
            )
            for column, values_of_column in rows.slices.items()
        },
        "against": None,
        "comparison": None,
    }
    if comparisons:
        values["against"] = str(against)
        values["comparison"] = {**comparisons[0], "test": _test_name(scores)}
        values["against_metrics"] = scores["variants"][str(against)]["metrics"]
    # Rounded before the sentences are written, so that they agree with report.json.
    facts: EvaluationFacts = tidy(values)
    facts["verdict"] = verdict_sentence(facts)
    if out is not None:
        write_evaluation(facts, out)
    return BundleEvaluation(
        bundle,
        str(file),
        facts["n"],
        facts["primary"],
        facts["metrics"],
        facts["drift"],
        facts["comparison"],
        facts["verdict"],
        facts,
    )


def _primary(
    manifest: CommonManifest,
    recipe: Recipe,
    primary: str,
    examples: Sequence[Example],
    result: VariantResult,
) -> Figure:
    """The primary metric on some rows."""
    measured = measure_bundles(manifest, recipe, examples, [result])
    return measured["variants"][result.name]["metrics"][primary]


def _test_name(scores: Scores) -> str:
    by_counts = scores["primary"] == "accuracy" and scores["groups"] is None
    return "exact McNemar test" if by_counts else "paired permutation test"


def _other_rows(
    bundle: Path,
    against: Path | None,
    manifest: CommonManifest,
    rows: LabelledRows,
    file: str | Path,
    text: Sequence[str] | None,
    label: str | None,
) -> LabelledRows | None:
    """The same rows as the other bundle reads them, before anything is predicted.

    Raises:
        UsageError: the bundles cannot be compared on these rows.
    """
    if against is None:
        return None
    other, recipe = _open(against)
    # The same folder may have two paths.
    if against.resolve() == bundle.resolve():
        raise UsageError(f"{against} is the bundle itself; --against takes another one")
    if other["task"] != manifest["task"] or set(other["labels"]) != set(manifest["labels"]):
        raise UsageError(
            f"{bundle} and {against} cannot be compared: {_kind(manifest)} and {_kind(other)}"
        )
    read = read_rows(file, other, recipe, text, label)
    # A paired test needs the same rows, labels and order.
    mine = [(e.id, e.target, e.references) for e in rows.examples]
    if mine != [(e.id, e.target, e.references) for e in read.examples]:
        raise UsageError(
            f"{bundle} and {against} read different rows or labels from {file} (their recipes' "
            "data options differ), so they cannot be compared on it"
        )
    return read


def _kind(manifest: CommonManifest) -> str:
    labels = ", ".join(map(repr, manifest["labels"][:8]))
    return manifest["task"] + (f" with the labels {labels}" if labels else "")


def _predict_other(
    against: Path, rows: LabelledRows, labels: Sequence[str], shared: dict[str, Any]
) -> VariantResult:
    bundle = load(against, shared)
    return predict_rows(bundle, rows.examples, labels, str(against), against)[0]


def _open(bundle: Path) -> tuple[AnyManifest, Recipe]:
    """A bundle's manifest and the recipe of its study."""
    manifest = read_manifest(bundle)
    path = bundle / "recipe.yaml"
    if not path.is_file():
        raise UsageError(
            f"{bundle} has no recipe.yaml, which says how its study read the data. Copy the file "
            "from the run folder, or use the bundle as the study wrote it"
        )
    recipe, _ = recipes.load(path)
    if recipe.task != manifest["task"]:
        raise UsageError(
            f"{bundle}: recipe.yaml is of a study of {recipe.task}, but bundle.json of "
            f"{manifest['task']}"
        )
    if manifest["variant"] not in recipe.variants:
        raise UsageError(f"{path} has no variant '{manifest['variant']}', which bundle.json names")
    return manifest, recipe
