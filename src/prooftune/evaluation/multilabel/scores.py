"""All figures of a study with several labels per text: every variant measured, compared with the
others, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prooftune.errors import Failure
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparison_plan import Measured, Plan, measured_once, pairs
from prooftune.evaluation.figures import widest_figure
from prooftune.evaluation.intervals import UNIT, f1_interval, wilson_interval
from prooftune.evaluation.languages import LanguageRows
from prooftune.evaluation.measurements import (
    compared_systems,
    group_facts,
    output_counts,
    study_measurements,
    tidy,
)
from prooftune.evaluation.metrics import Floats
from prooftune.evaluation.multilabel.metrics import (
    Bools,
    by_label,
    columns,
    label_matrix,
    measure,
    rates,
    set_prior,
)
from prooftune.evaluation.multilabel.thresholds import PRIMARY, LabelSets, label_sets
from prooftune.evaluation.outcomes import check_comparable, groups_in_test
from prooftune.evaluation.primary import judged_variant
from prooftune.evaluation.repeated_trainings import (
    average,
    best_training,
    mean_quality,
    procedure_metrics,
    training_facts,
)
from prooftune.evaluation.resampling import Groups, resample
from prooftune.evaluation.score_types import (
    Figure,
    LabelScores,
    Measurements,
    Scores,
    VariantMeasurements,
)
from prooftune.evaluation.verdict import verdict
from prooftune.recipe import Evaluation
from prooftune.types import Study, VariantResult

COMPARED = ("micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "hamming_loss")
"""Metrics of which differences are given; the primary one is added."""
BOUNDS = {"labels_per_text": (0.0, float("inf"))}
"""Ranges of metrics that are not shares."""


def score_label_sets(
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    bundled: str | None = None,
) -> Scores:
    """Measure all variants on the study's test examples.

    Args:
        study: the examples and the label set.
        results: every variant's predictions, on the same test and validation examples in the same
            order.
        settings: primary metric, worthwhile difference, resamples and confidence level.
        seed: of the bootstrap; the same resamples are used for all variants.
        bundled: the variant that the recipe wants shipped, and so judged.

    Returns:
        JSON-ready, as of `evaluation.scores.score`, with the metrics of label sets, ``threshold``
        for each variant, and ``cardinality``: labels per test text.

    Raises:
        Failure: the predictions are not comparable.
    """
    check_comparable(study, results)
    primary = settings.primary or PRIMARY
    groups, grouped_by = groups_in_test(study)
    targets = label_matrix((e.targets for e in study.test), study.labels)
    # A label that is missing from the matrix would count as absent, and flatter every variant.
    _check_targets(study, targets)
    sets = {
        r.name: [label_sets(study, training, settings) for training in r.trainings] for r in results
    }
    predicted = {name: [s.test for s in trainings] for name, trainings in sets.items()}
    singles = _measure_all(targets, predicted, results, settings, seed, groups)
    measured = {name: average(trainings) for name, trainings in singles.items()}
    quality = {name: [s.quality for s in trainings] for name, trainings in sets.items()}
    best = {name: best_training(figures) for name, figures in quality.items()}
    shown = {
        r.name: replace(r.trainings[best[r.name]], test=sets[r.name][best[r.name]].outputs)
        for r in results
    }
    plan = Plan(
        pairs(
            compared_systems(results, bundled), {r.name: r.details.get("model") for r in results}
        ),
        primary,
        tuple(dict.fromkeys((*COMPARED, primary))),
        rates,
        settings.confidence,
        seed,
        groups,
        None if settings.worthwhile is None else settings.worthwhile / 100,
    )
    figures = {
        name: [scalar_figures(once, settings.confidence) for once in trainings]
        for name, trainings in singles.items()
    }
    variants: dict[str, VariantMeasurements] = {
        r.name: _variant(
            r,
            shown[r.name],
            sets[r.name][best[r.name]],
            procedure_metrics(figures[r.name], settings.confidence, BOUNDS),
            _per_class(
                study.labels,
                targets,
                predicted[r.name][best[r.name]],
                singles[r.name][best[r.name]],
                settings.confidence,
            ),
            mean_quality(quality[r.name]),
        )
        for r in results
    }
    for name, of_trainings in figures.items():
        facts = training_facts(of_trainings, quality[name], best[name])
        if facts is not None:
            variants[name]["trainings"] = facts

    def measure_rows(rows: NDArray[np.bool_], own_groups: Groups | None) -> LanguageRows:
        parts = {name: [p[rows] for p in trainings] for name, trainings in predicted.items()}
        measured_rows = _measure_all(targets[rows], parts, results, settings, seed, own_groups)
        by_variant = {
            name: procedure_metrics(
                [scalar_figures(once, settings.confidence) for once in trainings],
                settings.confidence,
                BOUNDS,
            )
            for name, trainings in measured_rows.items()
        }
        return LanguageRows(
            {name: average(all_) for name, all_ in measured_rows.items()}, by_variant
        )

    base = study_measurements(
        "multilabel",
        study,
        results,
        settings,
        plan,
        group_facts(groups, grouped_by),
        dict(zip(study.labels, targets.sum(axis=0).tolist(), strict=True)),
        variants,
        measured,
        measure_rows,
    )
    measurements: Measurements = {**base, "cardinality": float(targets.sum() / len(targets))}
    judged = verdict(measurements, judged_variant(variants, primary, bundled))
    changed = changed_examples(
        study,
        shown,
        {name: (predicted[name][best[name]] == targets).all(axis=1) for name in predicted},
        # A label set has no single probability, so examples stay in the order of the test set.
        {name: np.zeros(len(targets)) for name in predicted},
        judged,
    )
    scores: Scores = tidy({**measurements, "verdict": judged, "changed": changed})
    return scores


def _check_targets(study: Study, targets: Bools) -> None:
    sizes = targets.sum(axis=1)
    for example, size in zip(study.test, sizes.tolist(), strict=True):
        if len(example.targets) != size:
            raise Failure(
                f"example {example.id} has the labels {', '.join(example.targets)}, which are not "
                f"all among the study's ({', '.join(study.labels)})"
            )


def _measure_all(
    targets: Bools,
    predicted: Mapping[str, Sequence[Bools]],
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> dict[str, list[Measured]]:
    """Metrics of all trainings of all variants on the same resamples."""
    r = settings.resamples
    # Trainings of a variant share its pseudo-examples.
    items = [
        (name, number, sets)
        for number, (name, trainings) in enumerate(predicted.items())
        for sets in trainings
    ]
    tables = [columns(targets, sets) for _, _, sets in items]
    priors = [set_prior(targets.shape[1], r, seed, number) for _, number, _ in items]
    drawn = resample(tables, r, seed, groups, priors)
    weights = {result.name: result.adapter or result.name for result in results}
    measured: dict[str, list[Measured]] = {name: [] for name in predicted}
    for (name, _, sets), table, part in zip(items, tables, drawn, strict=True):
        # Figures by label come from the same resamples as those over all labels.
        samples = part.map(_with_labels)
        correct = np.asarray((sets == targets).all(axis=1))
        once = measured_once(table, measure(targets, sets), samples, correct, weights[name])
        measured[name].append(once)
    return measured


def _with_labels(summed: Floats) -> dict[str, Floats]:
    each = {f"class_{name}": values for name, values in by_label(summed).items()}
    return rates(summed) | each


def scalar_figures(measured: Measured, level: float) -> dict[str, Figure]:
    """The scalar metrics of one training with their intervals."""
    n = measured.table.shape[1]
    return {
        name: widest_figure(
            value,
            measured.samples[name],
            # Whether sets are equal is a proportion of independent rows.
            wilson_interval(round(value * n), n, level) if name == "subset_accuracy" else None,
            n,
            level,
            BOUNDS.get(name, UNIT),
        )
        for name, value in measured.values.items()
    }


def _per_class(
    labels: Sequence[str], targets: Bools, predicted: Bools, measured: Measured, level: float
) -> list[LabelScores]:
    """Precision, recall and F1 of every label: proportions, or functions of one."""
    each = by_label(columns(targets, predicted).sum(axis=0))
    n = len(targets)
    by_label_scores: list[LabelScores] = []
    for i, label in enumerate(labels):
        given, present = predicted[:, i], targets[:, i]
        hits = int((given & present).sum())
        rows = {
            "precision": wilson_interval(hits, int(given.sum()), level),
            "recall": wilson_interval(hits, int(present.sum()), level),
            "f1": f1_interval(hits, int((given | present).sum()), level),
        }

        def figure(name: str, i: int = i, rows: dict[str, tuple[float, float]] = rows) -> Figure:
            value = float(each[name][i])
            # A label that never occurs has no precision or recall.
            if np.isnan(value):
                return {"value": value, "low": value, "high": value}
            samples = measured.samples[f"class_{name}"].at(i)
            return widest_figure(value, samples, rows[name], n, level, UNIT)

        by_label_scores.append(
            {
                "label": label,
                "support": int(present.sum()),
                "predicted": int(given.sum()),
                "precision": figure("precision"),
                "recall": figure("recall"),
                "f1": figure("f1"),
            }
        )
    return by_label_scores


def _variant(
    result: VariantResult,
    shown: VariantResult,
    sets: LabelSets,
    metrics: dict[str, Figure],
    per_class: list[LabelScores],
    quality: float | None,
) -> VariantMeasurements:
    counts = output_counts(shown.test)
    return {
        "kind": result.kind,
        "model": result.details.get("model"),
        "missing_languages": result.details.get("missing_languages"),
        "n": len(shown.test),
        "validation_quality": quality,
        "metrics": metrics,
        "per_class": per_class,
        "threshold": sets.threshold,
        "temperature": None,
        "invalid": counts["invalid"],
        "truncated": counts["truncated"],
        "truncated_tokens": counts["truncated_tokens"],
        "prompt_tokens": counts["prompt_tokens"],
    }
