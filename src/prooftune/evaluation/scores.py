"""All figures of a study: every variant measured, compared with the others, and a verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np

from prooftune.evaluation import calibration
from prooftune.evaluation.abstention import abstention
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparisons import Measured, Plan, compare, pairs
from prooftune.evaluation.ece import ece_interval
from prooftune.evaluation.intervals import (
    SIGNED,
    UNIT,
    Interval,
    f1_interval,
    resampling_interval,
    wilson_interval,
)
from prooftune.evaluation.metrics import (
    INVALID,
    Floats,
    Outcomes,
    columns,
    confusion,
    measure,
    per_class,
    rates,
    sums,
)
from prooftune.evaluation.outcomes import groups_in_test, outcomes_of
from prooftune.evaluation.primary import classification_primary, judged_variant, title_of
from prooftune.evaluation.resampling import Groups, Samples, label_prior, resample
from prooftune.evaluation.verdict import verdict
from prooftune.recipe import Evaluation
from prooftune.types import Prediction, Study, VariantResult

PROPORTIONS = ("accuracy", "invalid_rate")
PROBABILISTIC = ("log_loss", "brier", "ece")
HIGHEST_TARGET = 0.99
"""The highest accuracy that is aimed at among given answers unless the recipe says it."""
COMPARED = ("accuracy", "macro_f1", "balanced_accuracy", "mcc")
"""Metrics of which differences are given; the primary one is added."""

_BOUNDS = {"mcc": SIGNED, "log_loss": (0.0, inf), "brier": (0.0, 2.0)}


def score(
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    notes: Sequence[str] = (),
    bundled: str | None = None,
    borrowed: Collection[str] = (),
) -> dict[str, Any]:
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
        borrowed: tuned variants that cannot ship.

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
    tests = {name: test for name, (test, _) in arrays.items()}
    groups, grouped_by = groups_in_test(study)
    primary, remarks = classification_primary(study, settings)
    measured = _measure_all(tests, settings, seed, groups)
    target = settings.target_accuracy or _target_accuracy(arrays)
    variants: dict[str, Any] = {}
    for result in results:
        test, validation = arrays[result.name]
        calibrated = _calibrate(test, validation)
        variants[result.name] = {
            "kind": result.kind,
            "n": len(test),
            "validation_accuracy": _validation_accuracy(validation),
            "validation_quality": _quality(validation, primary),
            **_figures(test, measured[result.name], study.labels, settings, seed, groups),
            **_calibration(test, calibrated, settings, seed, groups),
            "abstention": _abstention(calibrated, target, settings.confidence),
            **_counts(result.test),
            "invalid_rate": float(np.mean(test.predicted == INVALID)),
        }
    classes = len(study.labels)
    plan = Plan(
        pairs({r.name: r.kind for r in results}),
        primary,
        tuple(dict.fromkeys((*COMPARED, primary))),
        lambda summed: rates(sums(summed, classes)),
        settings.confidence,
        seed,
        groups,
        None if settings.worthwhile is None else settings.worthwhile / 100,
    )
    support = np.bincount(next(iter(tests.values())).targets, minlength=classes)
    scores: dict[str, Any] = {
        "task": "classification",
        "primary": primary,
        "primary_title": title_of(primary),
        "worthwhile": plan.worthwhile,
        "n": len(study.test),
        "groups": group_facts(groups, grouped_by),
        "validation_n": len(study.validation),
        "seed": seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "simultaneous_confidence": plan.simultaneous,
        "labels": list(study.labels),
        "support": dict(zip(study.labels, support.tolist(), strict=True)),
        "target_accuracy": target,
        "notes": [*notes, *remarks],
        "variants": variants,
        "comparisons": compare(plan, measured),
    }
    scores["verdict"] = verdict(scores, judged_variant(variants, primary, bundled, borrowed))
    scores["changed"] = changed_examples(
        study,
        {r.name: r for r in results},
        {name: test.correct for name, test in tests.items()},
        {
            name: test.confidence if test.log_probs is not None else np.zeros(len(test))
            for name, test in tests.items()
        },
        scores["verdict"],
    )
    return dict(tidy(scores))


def group_facts(groups: Groups | None, grouped_by: str) -> dict[str, Any] | None:
    """How many groups there are, what makes them and how large the largest is; None without."""
    if groups is None:
        return None
    sizes = np.bincount(groups.index)
    return {"count": groups.count, "by": grouped_by, "largest": int(sizes.max())}


def _measure_all(
    tests: Mapping[str, Outcomes], settings: Evaluation, seed: int, groups: Groups | None
) -> dict[str, Measured]:
    """Metrics of all variants on the same resamples, without those of probabilities."""
    r = settings.resamples
    tables = {name: columns(test.with_log_probs(None)) for name, test in tests.items()}
    priors = [
        label_prior(test.classes, tables[name].shape[1], r, seed, number)
        for number, (name, test) in enumerate(tests.items())
    ]
    drawn = resample(list(tables.values()), r, seed, groups, priors)
    measured = {}
    for (name, test), part in zip(tests.items(), drawn, strict=True):
        classes = test.classes

        def both(summed: Floats, classes: int = classes) -> dict[str, Floats]:
            total = sums(summed, classes)
            by_class = {f"class_{key}": value for key, value in per_class(total).items()}
            return rates(total) | by_class

        samples = part.map(both)
        # An output outside the label set is none of the pseudo-examples' outcomes.
        samples["invalid_rate"] = replace(samples["invalid_rate"], posterior=None)
        measured[name] = Measured(tables[name], measure(test)[0], samples, test.correct)
    return measured


def _figures(
    test: Outcomes,
    measured: Measured,
    labels: list[str],
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> dict[str, Any]:
    """Metrics of one variant with their intervals, for each label too, and the confusion matrix."""
    values, by_class = measure(test)
    level = settings.confidence
    figures: dict[str, Any] = {}
    for name, value in values.items():
        if name not in PROBABILISTIC:
            figures[name] = _interval(name, value, measured.samples[name], len(test), level)
    if test.log_probs is not None:
        figures |= _probabilistic(test, settings, seed, groups)
    classes = [
        {
            "label": label,
            "support": int((test.targets == i).sum()),
            "predicted": int((test.predicted == i).sum()),
            **_of_label(test, i, {k: float(v[i]) for k, v in by_class.items()}, measured, level),
        }
        for i, label in enumerate(labels)
    ]
    table = confusion(test)
    return {
        "metrics": figures,
        "per_class": classes,
        "confusion": {
            "rows": labels,
            "columns": [*labels, "(invalid)"][: table.shape[1]],
            "counts": table.tolist(),
        },
    }


def _interval(name: str, value: float, samples: Samples, n: int, level: float) -> dict[str, Any]:
    rows = wilson_interval(round(value * n), n, level) if name in PROPORTIONS else None
    return _widest(value, samples, rows, n, level, _BOUNDS.get(name, UNIT))


def _widest(
    value: float,
    samples: Samples,
    rows: tuple[float, float] | None,
    n: int,
    level: float,
    bounds: tuple[float, float],
) -> dict[str, Any]:
    """The interval of single examples where one is known, and without groups only that; else, or
    if it is wider, the resampling interval. With groups also the interval of rows alone."""
    by_groups = samples.by_rows is not None
    found = resampling_interval(value, samples, level, bounds)
    ends: dict[str, Any] = {"value": value, "low": found.low, "high": found.high}
    if rows is not None:
        low, high = rows
        ends |= {"low": low, "high": high}
        if by_groups and not np.isnan(found.low):
            ends |= {"low": min(low, found.low), "high": max(high, found.high)}
    elif by_groups and samples.by_rows is not None:
        alone = resampling_interval(value, Samples(samples.by_rows, None, None, n), level, bounds)
        rows = alone.low, alone.high
    if by_groups and rows is not None:
        ends["by_rows"] = {"low": rows[0], "high": rows[1]}
    return ends


def _of_label(
    test: Outcomes, label: int, values: Mapping[str, float], measured: Measured, level: float
) -> dict[str, Any]:
    """Precision, recall and F1 of one label: proportions, or functions of one."""
    target, given = test.targets == label, test.predicted == label
    hits = int((target & given).sum())
    rows = {
        "precision": wilson_interval(hits, int(given.sum()), level),
        "recall": wilson_interval(hits, int(target.sum()), level),
        "f1": f1_interval(hits, int((target | given).sum()), level),
    }
    none = {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    return {
        name: none
        if np.isnan(values[name])
        else _widest(
            values[name],
            measured.samples[f"class_{name}"].at(label),
            ends,
            len(target),
            level,
            UNIT,
        )
        for name, ends in rows.items()
    }


def _probabilistic(
    test: Outcomes, settings: Evaluation, seed: int, groups: Groups | None
) -> dict[str, Any]:
    """Log-loss, Brier score and calibration error with their intervals. ``ece`` is without bias;
    ``plain`` is the figure as it is usually given."""
    values, level = measure(test)[0], settings.confidence
    (drawn,) = resample([columns(test)], settings.resamples, seed, groups)
    samples = drawn.map(lambda summed: rates(sums(summed, test.classes)))
    figures = {
        name: _ends(resampling_interval(values[name], samples[name], level, _BOUNDS[name]))
        for name in ("log_loss", "brier")
    }
    ece = ece_interval(test, level, seed)
    figures["ece"] = {**_ends(ece), "plain": values["ece"]}
    return figures


def _ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """Outcomes at the temperature found on validation, or as they were where none can be found."""

    temperature: float | None
    test: Outcomes
    validation: Outcomes


def _calibrate(test: Outcomes, validation: Outcomes) -> _Calibrated:
    if test.log_probs is None or validation.log_probs is None:
        return _Calibrated(None, test, validation)
    temperature = calibration.fit_temperature(validation)
    return _Calibrated(
        temperature,
        *(
            side.with_log_probs(calibration.apply_temperature(log_probs, temperature))
            for side, log_probs in ((test, test.log_probs), (validation, validation.log_probs))
        ),
    )


def _calibration(
    test: Outcomes,
    calibrated: _Calibrated,
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> dict[str, Any]:
    """What the probabilities are worth, before and after the temperature."""
    if test.log_probs is None:
        return {"temperature": None, "calibration": None, "risk_coverage": None}
    sides = {"before": test}
    if calibrated.temperature is not None:
        sides["after"] = calibrated.test
    figures: dict[str, Any] = {
        "validation_n": len(calibrated.validation),
        "ece": {},
        "log_loss": {},
        "reliability": {},
    }
    for side, outcomes in sides.items():
        found = _probabilistic(outcomes, settings, seed, groups)
        for name in ("ece", "log_loss"):
            figures[name][side] = found[name]
        figures["reliability"][side] = calibration.reliability(outcomes, settings.confidence)
    return {
        "temperature": calibrated.temperature,
        "calibration": figures,
        "risk_coverage": calibration.risk_coverage(calibrated.test),
    }


def _target_accuracy(arrays: Mapping[str, tuple[Outcomes, Outcomes]]) -> float | None:
    """Half-way between the best variant and 1, by validation: the test set must not set its own
    target."""
    known = [_validation_accuracy(validation) for _, validation in arrays.values()]
    best = max((accuracy for accuracy in known if accuracy is not None), default=None)
    # No number of examples can guarantee that every answer is right.
    return None if best is None else min((1 + best) / 2, HIGHEST_TARGET)


def _validation_accuracy(validation: Outcomes) -> float | None:
    return _quality(validation, "accuracy")


def _quality(validation: Outcomes, primary: str) -> float | None:
    return measure(validation.with_log_probs(None))[0][primary] if len(validation) else None


def _abstention(
    calibrated: _Calibrated, target: float | None, confidence: float
) -> dict[str, Any] | None:
    if calibrated.temperature is None or target is None:
        return None
    return abstention(calibrated.validation, calibrated.test, target, confidence)


def _counts(predictions: list[Prediction]) -> dict[str, int]:
    return {
        "invalid": sum(not p.valid for p in predictions),
        "truncated": sum(p.truncated_tokens > 0 for p in predictions),
        "truncated_tokens": sum(p.truncated_tokens for p in predictions),
        "prompt_tokens": sum(p.prompt_tokens for p in predictions),
    }


def tidy(value: Any) -> Any:
    """Make a value JSON-ready: floats to 6 significant digits, NaN and infinities to None, no
    NumPy."""
    if isinstance(value, Mapping):
        return {str(k): tidy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value
