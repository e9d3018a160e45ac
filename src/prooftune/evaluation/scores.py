"""All figures of a study: every variant measured, compared with the others, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from prooftune.evaluation import calibration
from prooftune.evaluation.changes import changed_examples
from prooftune.evaluation.comparisons import compare, pairs
from prooftune.evaluation.metrics import (
    INVALID,
    Floats,
    Outcomes,
    Sums,
    confusion,
    measure,
    per_class,
    rates,
)
from prooftune.evaluation.outcomes import outcomes_of
from prooftune.evaluation.statistics import (
    bootstrap,
    percentile_interval,
    shifted_interval,
    wilson_interval,
)
from prooftune.evaluation.verdict import verdict
from prooftune.recipe import Evaluation
from prooftune.types import Prediction, Study, VariantResult

PROPORTIONS = ("accuracy", "invalid_rate")


def score(
    study: Study,
    results: Sequence[VariantResult],
    settings: Evaluation,
    seed: int,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure all variants on the study's test examples.

    Args:
        study: the examples and the label set.
        results: every variant's predictions, on the same test and validation examples in the same
            order.
        settings: resamples, confidence level and target accuracy of abstention.
        seed: of the bootstrap; the same resamples are used for all variants.
        notes: sentences that a reader of the figures must know, kept as they are.

    Returns:
        JSON-ready: ``task``, ``primary`` (the metric by which variants are judged), ``n``,
        ``seed``, ``resamples``, ``confidence``, ``labels``, ``support``, ``target_accuracy``,
        ``notes``, ``variants`` (by name), ``comparisons``, ``verdict``, ``changed``.
        Shares are 0 to 1, log-loss in nats; undefined figures are None.

    Raises:
        Failure: the predictions are not comparable (see `outcomes_of`).
    """
    arrays = outcomes_of(study, results)
    tests = {name: test for name, (test, _) in arrays.items()}
    calibrated = {name: _calibrate(*both) for name, both in arrays.items()}
    drawn = bootstrap(
        [*tests.values(), *(c.test for c in calibrated.values())], settings.resamples, seed
    )
    raw = dict(zip(tests, drawn[: len(tests)], strict=True))
    target = settings.target_accuracy or _target_accuracy(arrays)
    variants: dict[str, Any] = {}
    for result, after in zip(results, drawn[len(tests) :], strict=True):
        name, test = result.name, tests[result.name]
        variants[name] = {
            "kind": result.kind,
            "n": len(test),
            "validation_accuracy": _validation_accuracy(arrays[name][1]),
            **_measured(test, raw[name], study.labels, settings.confidence),
            **_calibration(test, raw[name], calibrated[name], after, settings.confidence),
            "abstention": _abstention(calibrated[name], target, settings.confidence),
            **_counts(result.test),
            "invalid_rate": float(np.mean(test.predicted == INVALID)),
        }
    support = np.bincount(next(iter(tests.values())).targets, minlength=len(study.labels))
    scores: dict[str, Any] = {
        "task": "classification",
        "primary": "accuracy",
        "primary_title": "accuracy",
        "n": len(study.test),
        "validation_n": len(study.validation),
        "seed": seed,
        "resamples": settings.resamples,
        "confidence": settings.confidence,
        "labels": list(study.labels),
        "support": dict(zip(study.labels, support.tolist(), strict=True)),
        "target_accuracy": target,
        "notes": list(notes),
        "variants": variants,
        "comparisons": compare(
            pairs({r.name: r.kind for r in results}), tests, raw, settings.confidence
        ),
    }
    scores["verdict"] = verdict(scores)
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


def _measured(test: Outcomes, drawn: Sums, labels: list[str], confidence: float) -> dict[str, Any]:
    values, by_class = measure(test)
    resampled, by_class_resampled = rates(drawn), per_class(drawn)
    classes = []
    for i, label in enumerate(labels):
        figures = {
            name: _interval(
                name,
                float(by_class[name][i]),
                by_class_resampled[name][:, i],
                len(test),
                confidence,
            )
            for name in by_class
        }
        classes.append(
            {
                "label": label,
                "support": int((test.targets == i).sum()),
                "predicted": int((test.predicted == i).sum()),
                **figures,
            }
        )
    table = confusion(test)
    return {
        "metrics": {
            name: _interval(name, value, resampled[name], len(test), confidence)
            for name, value in values.items()
        },
        "per_class": classes,
        "confusion": {
            "rows": labels,
            "columns": [*labels, "(invalid)"][: table.shape[1]],
            "counts": table.tolist(),
        },
    }


def _interval(
    name: str, value: float, samples: Floats, n: int, confidence: float
) -> dict[str, float]:
    if name == "ece":
        low, high = shifted_interval(samples, value, confidence)
    elif name in PROPORTIONS and value in (0.0, 1.0):
        # Resamples of identical outcomes do not differ, which would claim certainty.
        low, high = wilson_interval(round(value * n), n, confidence)
    else:
        low, high = percentile_interval(samples, confidence)
    return {"value": value, "low": low, "high": high}


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
    test: Outcomes, drawn: Sums, calibrated: _Calibrated, drawn_after: Sums, confidence: float
) -> dict[str, Any]:
    """What the probabilities are worth, before and after the temperature."""
    if test.log_probs is None:
        return {"temperature": None, "calibration": None, "risk_coverage": None}
    sides = {"before": (test, drawn)}
    if calibrated.temperature is not None:
        sides["after"] = (calibrated.test, drawn_after)
    figures: dict[str, Any] = {
        "validation_n": len(calibrated.validation),
        "ece": {},
        "log_loss": {},
        "reliability": {},
    }
    for side, (outcomes, samples) in sides.items():
        values, resampled = measure(outcomes)[0], rates(samples)
        for name in ("ece", "log_loss"):
            figures[name][side] = _interval(
                name, values[name], resampled[name], len(test), confidence
            )
        figures["reliability"][side] = calibration.reliability(outcomes, confidence)
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
    return None if best is None else (1 + best) / 2


def _validation_accuracy(validation: Outcomes) -> float | None:
    return float(validation.correct.mean()) if len(validation) else None


def _abstention(
    calibrated: _Calibrated, target: float | None, confidence: float
) -> dict[str, Any] | None:
    if calibrated.temperature is None or target is None:
        return None
    return calibration.abstention(calibrated.validation, calibrated.test, target, confidence)


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
