"""Figures of probabilities before and after temperature scaling: losses, calibration, abstention.

The temperature itself is fitted in `calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prooftune.evaluation import calibration
from prooftune.evaluation.abstention import abstention
from prooftune.evaluation.figures import probabilistic_figures
from prooftune.evaluation.metrics import Outcomes, measure
from prooftune.evaluation.repeated_trainings import mean_quality
from prooftune.evaluation.resampling import Groups
from prooftune.evaluation.score_types import (
    Abstention,
    Calibration,
    ProbabilisticFigures,
    Side,
)
from prooftune.recipe import Evaluation

HIGHEST_TARGET = 0.99
"""The highest accuracy that is aimed at among given answers unless the recipe says it."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Outcomes as they were, and at the temperature found on validation where there is one."""

    temperature: float | None
    before: Outcomes
    test: Outcomes
    validation: Outcomes

    def sides(self) -> dict[Side, Outcomes]:
        """Test outcomes with probabilities ``before`` and ``after`` temperature scaling."""
        if self.before.log_probs is None:
            return {}
        if self.temperature is None:
            return {"before": self.before}
        return {"before": self.before, "after": self.test}


def probability_losses(
    calibrated: Mapping[str, list[Calibrated]],
    settings: Evaluation,
    seed: int,
    groups: Groups | None,
) -> dict[tuple[str, int], dict[Side, ProbabilisticFigures]]:
    """Log-loss, Brier score and ECE by variant and training, before and after its temperature."""
    sides = {
        f"{name} {i} {side}": outcomes
        for name, trainings in calibrated.items()
        for i, training in enumerate(trainings)
        for side, outcomes in training.sides().items()
    }
    figures = probabilistic_figures(sides, settings.resamples, settings.confidence, seed, groups)
    return {
        (name, i): {side: figures[f"{name} {i} {side}"] for side in training.sides()}
        for name, trainings in calibrated.items()
        for i, training in enumerate(trainings)
    }


def calibrate(test: Outcomes, validation: Outcomes) -> Calibrated:
    """Fit the temperature on validation outcomes; none without probabilities on both sides."""
    # The temperature is fitted on validation rows only: on test rows it would flatter its own
    # calibration.
    if test.log_probs is None or validation.log_probs is None:
        return Calibrated(None, test, test, validation)
    temperature = calibration.fit_temperature(validation)
    return Calibrated(
        temperature,
        test,
        *(
            side.with_log_probs(calibration.apply_temperature(log_probs, temperature))
            for side, log_probs in ((test, test.log_probs), (validation, validation.log_probs))
        ),
    )


def calibration_figures(
    calibrated: Calibrated, losses: Mapping[Side, ProbabilisticFigures], confidence: float
) -> Calibration | None:
    """How well the probabilities match frequencies, before and after the temperature."""
    sides = calibrated.sides()
    if not sides:
        return None
    return {
        "validation_n": len(calibrated.validation),
        "ece": {side: losses[side]["ece"] for side in sides},
        "log_loss": {side: losses[side]["log_loss"] for side in sides},
        "reliability": {
            side: calibration.reliability(outcomes, confidence) for side, outcomes in sides.items()
        },
    }


def default_target(arrays: Mapping[str, list[tuple[Outcomes, Outcomes]]]) -> float | None:
    """Half-way between the best variant and 1, by validation: the test set must not set its own
    target."""
    known = [
        mean_quality([validation_quality(validation, "accuracy") for _, validation in trainings])
        for trainings in arrays.values()
    ]
    best = max((accuracy for accuracy in known if accuracy is not None), default=None)
    # No number of examples can guarantee that every answer is right.
    return None if best is None else min((1 + best) / 2, HIGHEST_TARGET)


def validation_quality(validation: Outcomes, primary: str) -> float | None:
    """The primary metric on validation outcomes; None without any."""
    return measure(validation.with_log_probs(None))[0][primary] if len(validation) else None


def abstention_figures(
    calibrated: Calibrated,
    target: float | None,
    confidence: float,
    groups: tuple[Groups | None, Groups | None],
) -> Abstention | None:
    """The guaranteed threshold; groups of validation and of test examples."""
    if calibrated.temperature is None or target is None:
        return None
    return abstention(calibrated.validation, calibrated.test, target, confidence, groups)
