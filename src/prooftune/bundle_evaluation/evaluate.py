"""Evaluate a bundle on a labelled file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prooftune import recipe as recipes
from prooftune.bundle.load import Classifier, load
from prooftune.bundle.manifest import Manifest, read_manifest
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.bundle_evaluation.measures import measure_abstention, measure_bundles
from prooftune.bundle_evaluation.predictions import predict_rows
from prooftune.bundle_evaluation.rows import read_rows
from prooftune.errors import UsageError
from prooftune.evaluation.scores import tidy
from prooftune.recipe import Recipe
from prooftune.version import __version__


@dataclass(frozen=True, slots=True)
class BundleEvaluation:
    """The metrics of a bundle on labelled rows.

    Attributes:
        bundle: the bundle's folder.
        file: the labelled file.
        n: number of rows.
        primary: name of the primary metric.
        metrics: metric name -> ``value``, ``low``, ``high``; shares are 0 to 1.
        facts: all figures, the content of ``report.json``.
    """

    bundle: Path
    file: str
    n: int
    primary: str
    metrics: dict[str, dict[str, Any]]
    facts: dict[str, Any] = field(repr=False)


def evaluate_bundle(
    bundle: Path,
    file: str | Path,
    *,
    text: Sequence[str] | None = None,
    label: str | None = None,
) -> BundleEvaluation:
    """Predict every row of a labelled file and compare with its labels or reference answers.

    Args:
        bundle: a bundle folder.
        file: a labelled file, folder or glob pattern, in any format of a study's data.
        text: columns of the bundle's input fields. Default: those of its study.
        label: column of the labels or answers. Default: that of its study.

    Raises:
        UsageError: the bundle or the file cannot be used, or rows have labels that the bundle does
            not know.
        Failure: the base model could not be loaded.
    """
    manifest = read_manifest(bundle)
    recipe = _read_recipe(bundle, manifest)
    rows = read_rows(file, manifest, recipe, text, label)
    result, abstained = predict_rows(_load(bundle, {}), rows.examples, str(bundle), bundle)
    scores = measure_bundles(manifest, recipe, rows.examples, [result])
    figures = scores.pop("variants")[result.name]
    facts = {
        "bundle": str(bundle),
        "variant": manifest["variant"],
        "file": str(file),
        "prooftune_version": __version__,
        **scores,
        "notes": [*rows.notes, *scores["notes"]],
        **figures,
        "abstention": measure_abstention(
            manifest, rows.examples, result, abstained, scores["confidence"]
        ),
    }
    facts = tidy(facts)
    return BundleEvaluation(
        bundle, str(file), facts["n"], facts["primary"], facts["metrics"], facts
    )


def _load(bundle: Path, shared: dict[str, Any]) -> Classifier | QuestionAnswerer:
    return load(bundle, shared)


def _read_recipe(bundle: Path, manifest: Manifest) -> Recipe:
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
    return recipe
