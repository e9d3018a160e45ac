"""All figures of a study: every variant measured, compared with the others, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from prooftune.evaluation import calibration
from prooftune.evaluation.abstention import abstention
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparisons import Measured, Plan, compare, pairs
from prooftune.evaluation.figures import probabilistic_figures, variant_figures
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
from prooftune.evaluation.outcomes import groups_in_test, outcomes_of
from prooftune.evaluation.primary import classification_primary, judged_variant, title_of
from prooftune.evaluation.resampling import Groups, label_prior, resample
from prooftune.evaluation.verdict import verdict
from prooftune.recipe import Evaluation
from prooftune.types import Prediction, Study, VariantResult

HIGHEST_TARGET = 0.99
"""The highest accuracy that is aimed at among given answers unless the recipe says it."""
COMPARED = ("accuracy", "macro_f1", "balanced_accuracy", "mcc")
"""Metrics of which differences are given; the primary one is added."""


def score(
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    notes: Sequence[str] = (),
    bundled: str | None = None,
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
    calibrated = {name: _calibrate(*both) for name, both in arrays.items()}
    sides = {f"{name} {side}": o for name, c in calibrated.items() for side, o in c.sides().items()}
    losses = probabilistic_figures(sides, settings.resamples, settings.confidence, seed, groups)
    target = settings.target_accuracy or _target_accuracy(arrays)
    variants: dict[str, Any] = {}
    for result in results:
        name, (test, validation) = result.name, arrays[result.name]
        own = {side: losses[f"{name} {side}"] for side in calibrated[name].sides()}
        variants[name] = {
            "kind": result.kind,
            "n": len(test),
            "validation_accuracy": _validation_accuracy(validation),
            "validation_quality": _quality(validation, primary),
            **variant_figures(
                test, measured[name], study.labels, settings.confidence, own.get("before")
            ),
            **_calibration(calibrated[name], own, settings.confidence),
            "abstention": _abstention(calibrated[name], target, settings.confidence),
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
    scores["verdict"] = verdict(scores, judged_variant(variants, primary, bundled))
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


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """Outcomes as they were, and at the temperature found on validation where there is one."""

    temperature: float | None
    before: Outcomes
    test: Outcomes
    validation: Outcomes

    def sides(self) -> dict[str, Outcomes]:
        """Test outcomes with probabilities ``before`` and ``after`` temperature scaling."""
        if self.before.log_probs is None:
            return {}
        after = {} if self.temperature is None else {"after": self.test}
        return {"before": self.before, **after}


def _calibrate(test: Outcomes, validation: Outcomes) -> _Calibrated:
    if test.log_probs is None or validation.log_probs is None:
        return _Calibrated(None, test, test, validation)
    temperature = calibration.fit_temperature(validation)
    return _Calibrated(
        temperature,
        test,
        *(
            side.with_log_probs(calibration.apply_temperature(log_probs, temperature))
            for side, log_probs in ((test, test.log_probs), (validation, validation.log_probs))
        ),
    )


def _calibration(
    calibrated: _Calibrated, losses: Mapping[str, Mapping[str, Any]], confidence: float
) -> dict[str, Any]:
    """What the probabilities are worth, before and after the temperature."""
    sides = calibrated.sides()
    if not sides:
        return {"temperature": None, "calibration": None, "risk_coverage": None}
    figures: dict[str, Any] = {
        "validation_n": len(calibrated.validation),
        "ece": {side: losses[side]["ece"] for side in sides},
        "log_loss": {side: losses[side]["log_loss"] for side in sides},
        "reliability": {
            side: calibration.reliability(outcomes, confidence) for side, outcomes in sides.items()
        },
    }
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
