"""All figures of a study: every variant measured, compared with the others, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prooftune.evaluation import calibration
from prooftune.evaluation.calibrated_figures import (
    abstention_figures,
    calibrate,
    calibration_figures,
    default_target,
    probability_losses,
    validation_quality,
)
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparison_plan import Measured, Plan, measured_once, pairs
from prooftune.evaluation.figures import BOUNDS, variant_figures
from prooftune.evaluation.instructions import instruction_figures
from prooftune.evaluation.languages import LanguageRows
from prooftune.evaluation.measurements import (
    compared_systems,
    group_facts,
    output_counts,
    study_measurements,
    tidy,
)
from prooftune.evaluation.metrics import (
    INVALID,
    Floats,
    Outcomes,
    columns,
    measure,
    per_class,
    rates,
    sums,
)
from prooftune.evaluation.outcomes import groups_among, groups_in_test, outcomes_of
from prooftune.evaluation.primary import classification_primary, judged_variant
from prooftune.evaluation.repeated_trainings import (
    average,
    best_training,
    mean_quality,
    procedure_metrics,
    training_facts,
)
from prooftune.evaluation.resampling import Groups, label_prior, resample
from prooftune.evaluation.score_types import (
    Measurements,
    Scores,
    VariantMeasurements,
)
from prooftune.evaluation.verdict import verdict
from prooftune.recipe import Evaluation
from prooftune.recipe.metrics import COST_METRICS, ORDINAL_METRICS
from prooftune.types import Study, VariantResult

COMPARED = ("accuracy", "macro_f1", "balanced_accuracy", "mcc")
"""Metrics of which differences are given; the primary one is added."""


def score(
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    notes: Sequence[str] = (),
    bundled: str | None = None,
) -> Scores:
    """Measure all variants on the study's test examples.

    Args:
        study: the examples and the label set.
        results: every variant's predictions, on the same test and validation examples in the same
            order.
        settings: primary metric, worthwhile difference, resamples, confidence level and target
            accuracy of abstention.
        seed: of the bootstrap; the same resamples are used for all variants.
        notes: sentences that a reader of the figures must know.
        bundled: the tuned variant that the recipe wants shipped, and so judged.

    Returns:
        JSON-ready: ``task``, ``primary`` (the metric by which variants are judged), ``n``,
        ``groups``, ``seed``, ``resamples``, ``confidence``, ``simultaneous_confidence`` (level of
        each interval of a difference), ``labels``, ``support``, ``target_accuracy``, ``notes``,
        ``variants`` (by name), ``comparisons``, ``verdict``, ``changed``.
        Shares are 0 to 1, log-loss in nats; undefined figures are None.

    Raises:
        Failure: the predictions are not comparable (see `outcomes_of`).
    """
    arrays = outcomes_of(study, results)
    groups, grouped_by = groups_in_test(study)
    # The threshold is chosen on validation rows, whose groups are others than those of the test.
    both_groups = groups_among(study.validation)[0], groups
    primary, remarks = classification_primary(study, settings)
    singles = _measure_all(arrays, results, settings, seed, groups)
    measured = {name: average(trainings) for name, trainings in singles.items()}
    calibrated = {
        name: [calibrate(*both) for both in trainings] for name, trainings in arrays.items()
    }
    losses = probability_losses(calibrated, settings, seed, groups)
    target = settings.target_accuracy or default_target(arrays)
    quality = {
        name: [validation_quality(validation, primary) for _, validation in trainings]
        for name, trainings in arrays.items()
    }
    # By validation rows: the choice of a training may not see the test set.
    best = {name: best_training(figures) for name, figures in quality.items()}
    shown = {r.name: r.trainings[best[r.name]] for r in results}
    tests = {name: trainings[best[name]][0] for name, trainings in arrays.items()}
    variants: dict[str, VariantMeasurements] = {}
    for result in results:
        name, number = result.name, best[result.name]
        figures = [
            variant_figures(
                test, single, study.labels, settings.confidence, losses[name, i].get("before")
            )
            for i, ((test, _), single) in enumerate(zip(arrays[name], singles[name], strict=True))
        ]
        metrics = [of_training["metrics"] for of_training in figures]
        # Figures of single predictions need one model, so they are those of the training that
        # ships.
        chosen, own = calibrated[name][number], losses[name, number]
        counts = output_counts(shown[name].test)
        variants[name] = {
            "kind": result.kind,
            "model": result.details.get("model"),
            "missing_languages": result.details.get("missing_languages"),
            "n": len(tests[name]),
            "validation_accuracy": mean_quality(
                [validation_quality(v, "accuracy") for _, v in arrays[name]]
            ),
            "validation_quality": mean_quality(quality[name]),
            "metrics": procedure_metrics(metrics, settings.confidence, BOUNDS),
            "per_class": figures[number]["per_class"],
            "confusion": figures[number]["confusion"],
            "temperature": chosen.temperature,
            "calibration": calibration_figures(chosen, own, settings.confidence),
            "risk_coverage": calibration.risk_coverage(chosen.test) if own else None,
            "abstention": abstention_figures(chosen, target, settings.confidence, both_groups),
            "invalid": counts["invalid"],
            "truncated": counts["truncated"],
            "truncated_tokens": counts["truncated_tokens"],
            "prompt_tokens": counts["prompt_tokens"],
            "invalid_rate": float(np.mean(tests[name].predicted == INVALID)),
        }
        trainings_facts = training_facts(metrics, quality[name], number)
        if trainings_facts is not None:
            variants[name]["trainings"] = trainings_facts
    classes, first = len(study.labels), next(iter(tests.values()))
    plan = Plan(
        pairs(
            compared_systems(results, bundled), {r.name: r.details.get("model") for r in results}
        ),
        primary,
        # `fromkeys` keeps the order and drops a primary metric that is in `COMPARED`.
        tuple(
            dict.fromkeys(
                (
                    *COMPARED,
                    *(ORDINAL_METRICS if study.scale else ()),
                    *(COST_METRICS if study.costs else ()),
                    primary,
                )
            )
        ),
        lambda summed: rates(sums(summed, classes, first.scale, first.costs)),
        settings.confidence,
        seed,
        groups,
        None if settings.worthwhile is None else settings.worthwhile / 100,
    )

    def measure_rows(rows: NDArray[np.bool_], own_groups: Groups | None) -> LanguageRows:
        parts = {
            name: [(test.at(rows), validation) for test, validation in trainings]
            for name, trainings in arrays.items()
        }
        found = _measure_all(parts, results, settings, seed, own_groups)
        figures = {
            name: procedure_metrics(
                [
                    variant_figures(test, once, study.labels, settings.confidence, None)["metrics"]
                    for (test, _), once in zip(parts[name], found[name], strict=True)
                ],
                settings.confidence,
                BOUNDS,
            )
            for name in parts
        }
        return LanguageRows({name: average(found[name]) for name in parts}, figures)

    support = np.bincount(next(iter(tests.values())).targets, minlength=classes)
    base = study_measurements(
        "classification",
        study,
        results,
        settings,
        plan,
        group_facts(groups, grouped_by),
        dict(zip(study.labels, support.tolist(), strict=True)),
        variants,
        measured,
        measure_rows,
        [*notes, *remarks],
    )
    measurements: Measurements = {**base, "target_accuracy": target}
    judged = verdict(measurements, judged_variant(variants, primary, bundled))
    changed = changed_examples(
        study,
        shown,
        {name: test.correct for name, test in tests.items()},
        {
            name: test.confidence if test.log_probs is not None else np.zeros(len(test))
            for name, test in tests.items()
        },
        judged,
    )
    instructions = instruction_figures(study, shown, judged["baseline"], settings.confidence)
    scores: Scores = tidy(
        {
            **measurements,
            "verdict": judged,
            "changed": changed,
            "instructions": instructions,
        }
    )
    return scores


def _measure_all(
    arrays: Mapping[str, list[tuple[Outcomes, Outcomes]]],
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> dict[str, list[Measured]]:
    """Metrics of all trainings of all variants on the same resamples, without those of
    probabilities."""
    r = settings.resamples
    tests = [(name, test) for name, trainings in arrays.items() for test, _ in trainings]
    # Log-loss and Brier score have no prior; `_losses` resamples them by themselves.
    tables = [columns(test.with_log_probs(None)) for _, test in tests]
    # Trainings of a variant share its pseudo-examples.
    numbers = {name: number for number, name in enumerate(arrays)}
    priors = [
        label_prior(test.classes, table.shape[1], r, seed, numbers[name], test.scale, test.costs)
        for (name, test), table in zip(tests, tables, strict=True)
    ]
    drawn = resample(tables, r, seed, groups, priors)
    # Variants with the same weights share their training's luck, which cancels in their difference.
    weights = {result.name: result.adapter or result.name for result in results}
    measured: dict[str, list[Measured]] = {name: [] for name in arrays}
    for (name, test), table, part in zip(tests, tables, drawn, strict=True):
        # The default binds this turn's value; a closure would read the loop's last one.
        def both(summed: Floats, test: Outcomes = test) -> dict[str, Floats]:
            total = sums(summed, test.classes, test.scale, test.costs)
            by_class = {f"class_{key}": value for key, value in per_class(total).items()}
            return rates(total) | by_class

        samples = part.map(both)
        # An output outside the label set is none of the pseudo-examples' outcomes.
        samples["invalid_rate"] = replace(samples["invalid_rate"], posterior=None)
        once = measured_once(table, measure(test)[0], samples, test.correct, weights[name])
        measured[name].append(once)
    return measured
