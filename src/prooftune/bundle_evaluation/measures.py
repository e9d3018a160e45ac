"""Metrics of bundles on labelled rows, by the code that scores the variants of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prooftune.bundle.manifest import CommonManifest
from prooftune.bundle_evaluation.types import AbstentionCheck
from prooftune.data.ordinal import ordinal_scale
from prooftune.evaluation.intervals import wilson_interval
from prooftune.evaluation.score_types import Scores, VariantMeasurements
from prooftune.recipe import Recipe
from prooftune.types import Example, Study, VariantResult
from prooftune.utils.error_costs import error_cost_matrix


def measure_bundles(
    manifest: CommonManifest,
    recipe: Recipe,
    examples: Sequence[Example],
    results: Sequence[VariantResult],
) -> Scores:
    """Score the predictions of one bundle, or of two on the same rows.

    Args:
        manifest, recipe: of the first bundle; its primary metric and confidence level are used.
        examples: the rows.
        results: predictions of each bundle, as from `predict_rows`.

    Returns:
        As of `evaluation.scores.score` or `evaluation.answers.scores.score_answers`; there are no
        validation rows. ``calibration`` is of the probabilities after the bundle's temperature.
    """
    # No training and no validation rows: nothing is chosen or fitted here.
    labels = manifest["labels"]
    scale = ordinal_scale(recipe.data, labels)
    costs = None if recipe.costs is None else error_cost_matrix(recipe.costs, labels).tolist()
    study = Study(
        [],
        [],
        examples,
        labels,
        scale=[scale[n] for n in labels] if scale else [],
        costs=costs or [],
    )
    summary = manifest.get("study")
    settings = recipe.evaluation
    # The study's own metric and level: bundles of 0.1 may have been made with other defaults.
    if summary is not None:
        update = {name: summary.get(name) for name in ("primary", "confidence")}
        settings = settings.model_copy(update={k: v for k, v in update.items() if v is not None})
    if recipe.task == "classification":
        from prooftune.evaluation.scores import score

        return score(study, results, settings, recipe.seed, bundled=results[0].name)
    if recipe.task == "multilabel":
        from prooftune.evaluation.multilabel.scores import score_label_sets

        return score_label_sets(study, results, settings, recipe.seed, results[0].name)
    from prooftune.evaluation.answers.scores import require_libraries, score_answers

    require_libraries()
    # Whatever its kind, a bundle is one system here, which is compared with another one.
    variant = recipe.variants[manifest["variant"]].model_copy(update={"kind": "tuned"})
    update = {"evaluation": settings, "variants": {r.name: variant for r in results}}
    return score_answers(study, results, recipe.model_copy(update=update), bundled=results[0].name)


def without_study(scores: Scores) -> dict[str, Any]:
    """Scores that hold without a study: no verdict, and nothing of validation rows or variants."""
    left_out = (
        "verdict",
        "changed",
        "validation_n",
        "target_accuracy",
        "variants",
        "comparisons",
    )
    return {name: value for name, value in scores.items() if name not in left_out}


def bundle_figures(variant: VariantMeasurements) -> dict[str, Any]:
    """One bundle's figures, without those that need validation rows."""
    left_out = (
        "validation_accuracy",
        "validation_quality",
        "temperature",
        "abstention",
        "kind",
        "no_answer",
    )
    # A new bundle's rows have no validation part, so these would be empty.
    figures = {name: value for name, value in variant.items() if name not in left_out}
    calibration = variant.get("calibration")
    if calibration is not None:
        # Without validation rows no temperature is fitted, so there is only one side.
        figures["calibration"] = {
            "ece": calibration["ece"]["before"],
            "log_loss": calibration["log_loss"]["before"],
            "reliability": calibration["reliability"]["before"],
        }
    return figures


def measure_abstention(
    manifest: CommonManifest,
    examples: Sequence[Example],
    result: VariantResult,
    abstained: Sequence[bool | None],
    confidence: float,
) -> AbstentionCheck | None:
    """Coverage of the bundle's abstention threshold, and accuracy of the labels that it accepts.

    Returns:
        ``threshold``, ``target``, ``coverage``, ``answered``, ``accuracy`` (with its Wilson
        interval; None if no label is accepted), ``reached``: whether the accuracy is at least the
        target; None for a bundle without a threshold.
    """
    section = manifest.get("abstention")
    if section is None or any(a is None for a in abstained):
        return None
    accepted = ~np.array(abstained, dtype=np.bool_)
    correct = np.array([p.output == e.target for p, e in zip(result.test, examples, strict=True)])
    n, hits = int(accepted.sum()), int(correct[accepted].sum())
    low, high = wilson_interval(hits, n, confidence)
    target = section.get("target")
    return {
        "threshold": section.get("threshold"),
        "target": target,
        "coverage": n / len(examples),
        "answered": n,
        "accuracy": {"value": hits / n, "low": low, "high": high} if n else None,
        "reached": None if not n or target is None else hits / n >= target,
    }
